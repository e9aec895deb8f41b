"""How this process computes: the only place that names a device, a dtype, autocast, memory format or compilation."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import threadpoolctl
import torch
from torch import Tensor, nn

from wmdd.cpus import bf16_on_cpu, cpu_flags, cpu_name, keep_freed_memory
from wmdd.errors import ConfigError
from wmdd.layers.convolution import TrimmedConv2d, trim_kernels

logger = logging.getLogger(__name__)
M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")
MAX_COMPILATIONS = 1000


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
        compile: compile long loops by `torch.compile`.
        threads: CPU threads.
        train_threads: CPU threads of a teacher's training; 0 to choose them (`wmdd.training.threads`).
        memory_bytes: real images that fit in this are kept decoded.
        loaders: processes that decode images that do not fit.
        cpus: CPUs that a teacher's training may use; 0 for all that the process may use.
        compile_networks: with `compile`, also those that train or label: on request, as nobody knows where it pays.
        deterministic: choose a GPU's kernels by rules, never by timing, and only those that repeat bit for bit.
        reasons: why precision and compilation are what they are, for the manifest.
    """

    device: torch.device
    bf16: bool
    compile: bool
    threads: int
    train_threads: int = 0
    memory_bytes: int = 0
    loaders: int = 0
    cpus: int = 0
    compile_networks: bool = False
    deterministic: bool = True
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)

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
        bf16, why_precision = _choose_bf16(config.precision, device)
        compiled, why_compile = _choose_compile(config.compile, device)
        if config.compile == "on" and (failure := compiler_failure(device)):
            raise ConfigError(f"runtime.compile=on: torch cannot compile here ({failure}); use auto or off")
        return Runtime(
            device,
            bf16,
            compiled,
            config.threads,
            config.train_threads,
            memory_bytes=int(config.memory_gib * 2**30),
            loaders=config.loaders,
            cpus=cpus,
            compile_networks=config.compile == "on",
            deterministic=config.deterministic,
            reasons={"precision": why_precision, "compile": why_compile},
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
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
            pending = thread.submit(next, iterator, None)
            while (batch := pending.result()) is not None:
                pending = thread.submit(next, iterator, None)
                yield batch

    def keep(self, images: Tensor) -> Tensor:
        """Move images that every epoch uses to the device, unless they need more than an eighth of its memory."""
        if self.device.type != "cuda" or images.nbytes > torch.cuda.get_device_properties(self.device).total_memory / 8:
            return images
        return images.to(self.device)

    def pick(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return rows of images, gathered on the device that holds the images."""
        # Not images[rows], which on a CPU copies uint8 value by value, which is several times as slow.
        return images.index_select(0, self.send(rows) if images.is_cuda else rows)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Run networks in the block in the chosen precision."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            yield

    def maybe_compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the compiled function if `compile` is set and torch can compile here, else the function.

        Each shape is compiled separately and, if `deterministic` is set, nothing is chosen by timing: kernels for
        dynamic shapes, or the fastest of several, would depend on what this process ran before, and a resumed run must
        give the images of an uninterrupted one.
        """
        if not self.compile or compiler_failure(self.device):
            return function
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        # Beyond its limit torch stops compiling any function of the process, and rounding changes.
        dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_COMPILATIONS)
        dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, MAX_COMPILATIONS)
        options: dict[str, Any] = {"deterministic": self.deterministic} if hasattr(inductor, "deterministic") else {}
        # The one choice by timing that inductor's "deterministic" leaves.
        options["triton.autotune_pointwise"] = not self.deterministic
        compiled = torch.compile(function, dynamic=False, options=options)

        def run(*arguments: Any) -> Any:
            try:
                return compiled(*arguments)
            except torch._dynamo.exc.TorchDynamoException as exc:
                raise ConfigError(f"runtime.compile: this network cannot be compiled ({_line(exc)}); use off") from exc

        return run

    def pass_through(self, network: nn.Module) -> Callable[..., Any]:
        """Return what computes a network's pass: the network, or its compiled code if `compile_networks` is set."""
        return self.maybe_compile(network) if self.compile_networks else network

    def describe(self) -> dict[str, Any]:
        """Return device, precision, compilation and threads as they are now, and why, for the manifest."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu_name()
        threads, reasons = torch.get_num_threads(), dict(self.reasons)
        reasons["threads"] = _why_threads(threads, self)
        if failure := self.compile and _compiler_failures.get(self.device.type):
            reasons["compile"] = f"torch cannot compile here ({failure})"
        return {
            "device": name,
            "precision": "bf16" if self.bf16 else "fp32",
            "compile": self.compile and not failure,
            "deterministic": self.deterministic,
            "threads": threads,
            "reasons": reasons,
        }


_compiler_failures: dict[str, str] = {}


def compiler_failure(device: torch.device) -> str:
    """Return why torch cannot compile for a device (no C compiler, no Python headers, an old GPU), or "" if it can.

    It is tried once per process, before the first compilation, so that either all functions are compiled or none.
    """
    import torch._dynamo

    if device.type not in _compiler_failures:
        failure = ""
        try:
            torch.compile(_next, dynamic=False)(torch.zeros(8, device=device))
        except Exception as exc:  # compilers, drivers and torch each raise their own
            failure = _line(exc)
            logger.warning("recovery is not compiled, and so takes longer: torch cannot compile here (%s)", failure)
        _compiler_failures[device.type] = failure
    return _compiler_failures[device.type]


def _next(values: Tensor) -> Tensor:
    return values + 1


def _line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0][:200]}" if lines else type(exc).__name__


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


def _choose_bf16(setting: str, device: torch.device) -> tuple[bool, str]:
    """Return whether networks compute in bf16, and why: by what the chip has, because timings would vary."""
    if setting == "auto" and device.type == "cuda":
        native = bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return native, f"auto: the GPU has {'' if native else 'no '}bf16"
    if setting == "auto" and not torch.backends.mkldnn.is_available():
        return False, "auto: this torch has no oneDNN"
    return bf16_on_cpu(setting, cpu_flags())


def _choose_compile(setting: str, device: torch.device) -> tuple[bool, str]:
    """Return whether long loops are compiled, and why.

    On a CPU a process compiles for 15 to 60 s, with a C++ compiler that may not be there. Steps of 50 images of 32 px
    then take less time, which pays from some 100 (ResNet-18) to 1,000 steps (ConvNet-3) on.
    """
    if setting != "auto":
        return setting == "on", "set by runtime.compile"
    if device.type == "cuda":
        return True, "auto: the device is a GPU"
    return False, "auto: compiling for a CPU takes longer than short loops save"


def _why_threads(threads: int, runtime: Runtime) -> str:
    if threads == runtime.threads:
        return "runtime.threads"
    return "runtime.train_threads" if threads == runtime.train_threads else "auto: what training keeps busy"
