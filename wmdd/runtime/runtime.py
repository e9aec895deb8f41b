"""Device, precision, compilation and resources of this process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import threadpoolctl
import torch
from torch import Tensor, nn

from wmdd.cpus import bf16_on_cpu, cpu_flags, cpu_name, keep_freed_memory
from wmdd.errors import ConfigError
from wmdd.layers.convolution import TrimmedConv2d, trim_kernels
from wmdd.layers.pooling import keep_pooling
from wmdd.runtime.compilation import OFF, Compilation, compiler_failure
from wmdd.runtime.memory import device_in_use, use_devices

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


class Settings(Protocol):
    """The options of the section ``runtime`` that this module reads."""

    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def compile(self) -> str: ...
    @property
    def deterministic(self) -> bool: ...
    @property
    def threads(self) -> int: ...
    @property
    def train_threads(self) -> int: ...
    @property
    def memory_gib(self) -> float: ...
    @property
    def loaders(self) -> int: ...


@dataclass(frozen=True)
class Runtime:
    """Device, precision, compilation and resources of this process.

    Args:
        device: the CPU, or the GPU in use.
        bf16: run networks under bf16 autocast; losses and moments stay float32.
        threads: CPU threads.
        train_threads: CPU threads of a teacher's training; 0 to choose them (`wmdd.training.threads`).
        memory_bytes: real images that fit in this are kept decoded.
        loaders: processes that decode images that do not fit.
        cpus: CPUs that a teacher's training may use; 0 for all that the process may use.
        compilation: what `torch.compile` compiles.
        device_bytes: total memory of the GPU; 0 on a CPU.
        deterministic: choose a GPU's kernels by rules, never by timing, and only those that repeat bit for bit.
        why_bf16: the reason, for the manifest.
    """

    device: torch.device
    bf16: bool
    threads: int
    train_threads: int = 0
    memory_bytes: int = 0
    loaders: int = 0
    cpus: int = 0
    compilation: Compilation = OFF
    device_bytes: int = 0
    deterministic: bool = True
    why_bf16: str = field(default="", compare=False)

    @staticmethod
    def create(config: Settings, cpus: int = 0) -> Runtime:
        """Return the runtime of this process on some or all (0) CPUs, with a value for each option that is `auto`.

        Raises:
            ConfigError: if there is no GPU, or no compiler, where the options require one.
        """
        # Asking for GPUs loads the driver, which a CPU worker does not need.
        cuda = config.device != "cpu" and torch.cuda.is_available()
        if config.device == "cuda" and not cuda:
            raise ConfigError("runtime.device=cuda: torch sees no GPU here; use auto or cpu")
        device = torch.device("cuda" if cuda else "cpu")
        bf16, why_bf16 = _choose_bf16(config.precision, device)
        return Runtime(
            device,
            bf16,
            config.threads,
            config.train_threads,
            memory_bytes=int(config.memory_gib * 2**30),
            loaders=config.loaders,
            cpus=cpus,
            compilation=Compilation.create(config.compile, device),
            device_bytes=torch.cuda.get_device_properties(device).total_memory if cuda else 0,
            deterministic=config.deterministic,
            why_bf16=why_bf16,
        )

    def enter(self) -> None:
        """Set the process's thread count and kernel choices."""
        self.use_threads(self.threads)
        if self.device.type == "cpu":
            keep_freed_memory()
        # Benchmarking chooses kernels by timing, and a resumed run must give the images of an uninterrupted one.
        torch.backends.cudnn.benchmark = not self.deterministic
        torch.backends.cudnn.deterministic = self.deterministic
        # TF32 has ten bits of mantissa and bf16 seven; a run in fp32 must not be rounded to either.
        torch.backends.cuda.matmul.allow_tf32 = self.bf16
        torch.backends.cudnn.allow_tf32 = self.bf16

    def use_threads(self, threads: int) -> None:
        """Set the number of CPU threads, on which the rounding of sums depends."""
        threadpoolctl.threadpool_limits(threads)  # BLAS under NumPy and scikit-learn
        torch.set_num_threads(threads)

    def place(self, model: M) -> M:
        """Move a network to the device, in channels-last format (measured faster on GPUs and on CPUs in bf16)."""
        if self.device.type == "cpu":
            trim_kernels(model)
            keep_pooling(model)
        return model.to(device=self.device).to(memory_format=torch.channels_last)

    def round_weights(self, network: M) -> M:
        """Round the weights of a network that is only evaluated, once, as autocast rounds them at each pass."""
        if self.bf16:
            for module in network.modules():
                if type(module) in (nn.Conv2d, TrimmedConv2d, nn.Linear):  # subclasses may do more with their weights
                    module.to(torch.bfloat16)
        return network

    def images(self, images: Tensor) -> Tensor:
        """Move (n, 3, h, w) images to the device in the networks' memory format."""
        return self.send(images).contiguous(memory_format=torch.channels_last)

    def send(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to the device without waiting for work that is queued there.

        A copy from pageable memory waits for that work, and the device is idle while the host then prepares the next
        step. A copy from pinned memory does not wait; torch keeps that memory until the copy is done.
        """
        if self.device.type != "cuda" or tensor.is_cuda:
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def ahead(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield batches in order; if the device is a GPU, a thread prepares the next batch during each step."""
        if self.device.type != "cuda":
            yield from batches
            return
        iterator = iter(batches)
        # A thread begins with the first GPU, which may be another process's.
        with ThreadPoolExecutor(1, "ahead", initializer=use_devices, initargs=(device_in_use(),)) as thread:
            pending = thread.submit(next, iterator, None)
            while (batch := pending.result()) is not None:
                pending = thread.submit(next, iterator, None)
                yield batch

    def keep(self, images: Tensor) -> Tensor:
        """Move images that every epoch uses to the device, unless they need more than an eighth of its memory."""
        return images.to(self.device) if images.nbytes <= self.device_bytes / 8 else images

    def images_per_pass(self, values: int, least: int) -> int:
        """Return how many images pass a network together: on a GPU, as many as an eighth of its memory holds.

        That depends on the kind of GPU alone, not on what is free, so that results repeat bit for bit on that kind.

        Args:
            values: number of output values of all layers for one image, above 0.
            least: result on a CPU; on a GPU the result is a multiple of it, and at least this.
        """
        # No tensor may have 2^31 values: kernels that count in 32 bits fail, or are replaced by others.
        fit = min(self.device_bytes // 8 // 4, 2**31 - 1) // values
        return max(least, fit // least * least)

    def pick(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return rows of images, gathered on the device that holds the images."""
        # Not images[rows], which on a CPU copies uint8 value by value, which is several times as slow.
        return images.index_select(0, self.send(rows) if images.is_cuda else rows)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Run networks in the block in the chosen precision."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            yield

    def compiles_recovery(self, pixels: int, steps: int) -> bool:
        """Whether recovery is compiled.

        Args:
            pixels: of the images of a tensor batch, counted in every step.
            steps: number of steps.
        """
        counted = steps if self.compilation.by_steps else pixels
        return counted >= self.compilation.recovery_from and not compiler_failure(self.device)

    def uncompiled(self, reason: str) -> Runtime:
        """Return it without compilation, for this reason; itself if that is empty."""
        off = dataclasses.replace(OFF, reason=reason)
        return dataclasses.replace(self, compilation=off) if reason else self

    def recovery(self, function: Callable[..., Any], pixels: int, steps: int) -> Callable[..., Any]:
        """Return what computes a step of recovery: the function, compiled if `compiles_recovery` of the same work."""
        if not self.compiles_recovery(pixels, steps):
            return function
        return self.compilation.compiled(function, self.device, deterministic=self.deterministic)

    def network(self, network: nn.Module, steps: int, parts: int = 1) -> Callable[..., Any]:
        """Return what computes a pass of a network that trains or labels: itself, compiled if there are many steps.

        Args:
            parts: passes of a step. What a CUDA graph returns is valid until its next pass only.
        """
        chosen = self.compilation if parts == 1 else dataclasses.replace(self.compilation, graphs=False)
        if steps < chosen.networks_from:
            return network
        return chosen.compiled(network, self.device, deterministic=self.deterministic)

    def describe(self) -> dict[str, Any]:
        """Return device, precision, compilation and threads as they are now, and why, for the manifest."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu_name()
        threads = torch.get_num_threads()
        compiled, why_compiled = self.compilation.describe(self.device)
        return {
            "device": name,
            "precision": "bf16" if self.bf16 else "fp32",
            "compile": compiled,
            "deterministic": self.deterministic,
            "threads": threads,
            "reasons": {
                "precision": self.why_bf16,
                "compile": why_compiled,
                "threads": _why_threads(threads, self),
            },
        }


def _choose_bf16(setting: str, device: torch.device) -> tuple[bool, str]:
    """Return whether networks compute in bf16, and why: by what the chip has, because timings would vary."""
    if setting == "auto" and device.type == "cuda":
        native = bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return native, f"auto: the GPU has {'' if native else 'no '}bf16"
    if setting == "auto" and not torch.backends.mkldnn.is_available():
        return False, "auto: this torch has no oneDNN"
    return bf16_on_cpu(setting, cpu_flags())


def _why_threads(threads: int, runtime: Runtime) -> str:
    if threads == runtime.threads:
        return "runtime.threads"
    return "runtime.train_threads" if threads == runtime.train_threads else "auto: what training keeps busy"
