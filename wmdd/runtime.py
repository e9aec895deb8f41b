"""The only place that names a device, a dtype, autocast, memory format or compilation."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import threadpoolctl
import torch
from torch import Tensor, nn

from wmdd.errors import ConfigError
from wmdd.sections import RuntimeConfig

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Runtime:
    """How this process computes.

    Args:
        device: where tensors live.
        bf16: run networks under bf16 autocast (losses and moments stay fp32).
        compile: `torch.compile` long loops.
        threads: CPU threads of the process; `train_threads` while it trains a teacher (0: all cores).
        memory_bytes: real images are kept decoded when they fit in this.
        loaders: processes that decode images that do not fit.
    """

    device: torch.device
    bf16: bool
    compile: bool
    threads: int
    train_threads: int = 0
    memory_bytes: int = 0
    loaders: int = 0

    @staticmethod
    def create(config: RuntimeConfig) -> Runtime:
        """Resolve `auto` for this process.

        Raises:
            ConfigError: if a GPU is asked for and there is none.
        """
        cuda = torch.cuda.is_available()
        if config.device == "cuda" and not cuda:
            raise ConfigError("runtime.device=cuda: torch sees no GPU here; use auto or cpu")
        device = torch.device("cuda" if config.device != "cpu" and cuda else "cpu")
        bf16 = config.precision == "bf16" or (config.precision == "auto" and _fast_bf16(device))
        compiled = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
        compiled = compiled and shutil.which("cc") is not None
        memory = int(config.memory_gib * 2**30)
        return Runtime(device, bf16, compiled, config.threads, config.train_threads, memory, config.loaders)

    def enter(self, *, training: bool = False) -> None:
        """Set the process's thread count, for the training of a teacher or for any other stage, and kernel choices."""
        threads = (self.train_threads or os.cpu_count() or 1) if training else self.threads
        threadpoolctl.threadpool_limits(threads)  # BLAS under NumPy and scikit-learn, whose sums depend on it too
        torch.set_num_threads(threads)
        # Benchmarking picks kernels by the clock, and a resumed run must give the images of an undisturbed one.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True

    def place(self, model: M) -> M:
        """Move a network to the device, channels last (measured to pay on GPUs and on bf16 CPUs)."""
        return model.to(device=self.device).to(memory_format=torch.channels_last)

    def images(self, images: Tensor) -> Tensor:
        """Move (n, 3, h, w) images to the device in the networks' memory format."""
        return images.to(self.device, non_blocking=True, memory_format=torch.channels_last)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Run networks inside in the chosen precision."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            yield

    def maybe_compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function where that is wanted; otherwise give it back."""
        return torch.compile(function) if self.compile else function

    def describe(self) -> dict[str, Any]:
        """Say what was used, for the manifest."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else _cpu_name()
        return {
            "device": name,
            "precision": "bf16" if self.bf16 else "fp32",
            "compile": self.compile,
            "threads": self.threads,
        }


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a full device from other failures."""
    return isinstance(error, torch.OutOfMemoryError)


def choose_gpu(device: torch.device) -> None:
    """Let this process use one GPU of those that it sees, where others of its node use the rest."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def free_memory() -> None:
    """Give cached device memory back after a failed allocation."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gpu_count() -> int:
    """Count the GPUs that this process sees."""
    return torch.cuda.device_count()


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without native instructions bf16 on a CPU is emulated and slower than fp32.
    return torch.backends.mkldnn.is_available() and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as cpuinfo:
        flags = cpuinfo.read()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return False


@functools.cache
def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"CPU, {os.cpu_count()} cores"
