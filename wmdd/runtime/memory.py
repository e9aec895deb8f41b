"""The GPU that this process uses, and its memory."""

from __future__ import annotations

import gc

import torch

# Messages of libraries that torch calls; the second is cuDNN's if its workspace does not fit.
_OUT_OF_MEMORY = ("out of memory", "unable to find an engine to execute", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device's memory is full."""
    full = isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    return full or isinstance(error, torch.OutOfMemoryError)


def choose_gpu(device: torch.device) -> None:
    """Make this process use one of the GPUs that it sees; other processes of its node use the others."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def free_memory() -> None:
    """Return unused memory to the device, after a failed allocation."""
    if torch.cuda.is_initialized():
        gc.collect()  # generators and errors that refer to each other hold tensors until then
        torch.cuda.empty_cache()


def device_in_use() -> list[int]:
    """Return the number of the GPU that this process uses, in a list; an empty list if it has used none."""
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []


def use_devices(numbers: list[int]) -> None:
    """Make this thread use the GPU that `device_in_use` returned in another, if it returned one."""
    for number in numbers:
        torch.cuda.set_device(number)
