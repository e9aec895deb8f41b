"""Which functions torch compiles in this process, and how."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wmdd.cpus import CPU_RECOVERY_PIXELS
from wmdd.errors import ConfigError

logger = logging.getLogger(__name__)
MAX_COMPILATIONS = 1000

# From where on `runtime.compile` auto compiles on a GPU. A step of recovery waits for the host, which launches a
# thousand small kernels, so its size hardly matters: on an H200 compilation saved 15 ms of 22 (100 images, 224 px) and
# 17 of 24 (32 px), and took 20 to 29 s, 12 to 13 where another process had compiled the same code. So it pays from 800
# to 1,900 steps on, and earlier for several groups of classes (benchmarks/results).
# From where on it pays for networks that train or label has not been measured. On CPUs `CPU_RECOVERY_PIXELS` decides
# on recovery; a step of training is hardly shorter afterwards.
GPU_RECOVERY_STEPS = 1500
NETWORKS_FROM = 20_000
NEVER = 2**63


@dataclass(frozen=True)
class Compilation:
    """What is compiled: by the amount of work, which the configuration decides, and never by timing.

    Args:
        recovery_from: recovery of at least this number of pixels: steps x images of a tensor batch x height x width.
        by_steps: count the steps alone, whatever their images.
        networks_from: networks that train for at least this number of steps, or label as many batches.
        graphs: launch a compiled function's kernels as one CUDA graph.
        required: whether a function that cannot be compiled is an error; otherwise it runs uncompiled.
        reason: why, for the manifest.
    """

    recovery_from: int
    networks_from: int
    by_steps: bool = False
    graphs: bool = False
    required: bool = False
    reason: str = "set by runtime.compile"

    @staticmethod
    def create(setting: str, device: torch.device) -> Compilation:
        """Return what ``runtime.compile`` means on a device.

        Raises:
            ConfigError: if there is no compiler, or no GPU for CUDA graphs, where the option requires one.
        """
        if setting == "off":
            return OFF
        if setting == "auto" and device.type == "cuda":
            reason = "auto: on a GPU, what outlasts compilation"
            return Compilation(GPU_RECOVERY_STEPS, NETWORKS_FROM, by_steps=True, reason=reason)
        if setting == "auto":
            return Compilation(CPU_RECOVERY_PIXELS, NEVER, reason="auto: on a CPU, recovery that outlasts compilation")
        if setting == "graphs" and device.type != "cuda":
            raise ConfigError("runtime.compile=graphs: CUDA graphs need a GPU; use auto, on or off")
        if failure := compiler_failure(device, warn=False):
            raise ConfigError(f"runtime.compile={setting}: torch cannot compile here ({failure}); use auto or off")
        return Compilation(0, 0, graphs=setting == "graphs", required=True)

    def compiled(
        self, function: Callable[..., Any], device: torch.device, *, deterministic: bool
    ) -> Callable[..., Any]:
        """Return the compiled function if torch can compile here, else the function.

        Each shape is compiled separately and, if `deterministic` is set, nothing is chosen by timing: kernels for
        dynamic shapes, or the fastest of several, would depend on what this process ran before, and a resumed run must
        give the images of an uninterrupted one.

        Raises (the returned function):
            ConfigError: if it cannot be compiled, and compilation is required.
        """
        if compiler_failure(device):
            return function
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        # Beyond its limit torch stops compiling any function of the process, and rounding changes.
        dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_COMPILATIONS)
        dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, MAX_COMPILATIONS)
        options: dict[str, Any] = {"deterministic": deterministic} if hasattr(inductor, "deterministic") else {}
        # The one choice by timing that inductor's "deterministic" leaves.
        options["triton.autotune_pointwise"] = not deterministic
        if self.graphs:
            options["triton.cudagraphs"] = True
        compiled = torch.compile(function, dynamic=False, options=options)

        def run(*arguments: Any, **named: Any) -> Any:
            try:
                return (
                    compiled(*arguments, **named)
                    if not _compiler_failures[device.type]
                    else function(*arguments, **named)
                )
            except torch._dynamo.exc.TorchDynamoException as exc:
                if self.required:
                    text = f"runtime.compile: this network cannot be compiled ({_line(exc)}); use off"
                    raise ConfigError(text) from exc
                _note_failure(device, exc)
                return function(*arguments, **named)

        return run

    def describe(self, device: torch.device) -> tuple[str, str]:
        """Return what is compiled, and why, for the manifest."""
        if dataclasses.replace(self, reason=OFF.reason) == OFF:
            return "nothing", self.reason
        if failure := _compiler_failures.get(device.type):
            return "nothing", f"torch cannot compile here ({failure})"
        if not self.recovery_from:
            return "all" + ", as CUDA graphs" * self.graphs, self.reason
        networks = "" if self.networks_from == NEVER else f", networks that take {self.networks_from:,} steps or more"
        unit = "steps or more" if self.by_steps else "pixels or more in all steps"
        return f"recovery of {self.recovery_from:,} {unit}{networks}", self.reason


OFF, ON = Compilation(NEVER, NEVER), Compilation(0, 0, required=True)
_compiler_failures: dict[str, str] = {}


def compiler_failure(device: torch.device, *, warn: bool = True) -> str:
    """Return why torch cannot compile for a device (no C compiler, no Python headers, an old GPU), or "" if it can.

    It is tried once per process, before the first compilation. From the first failure on no function is compiled.
    """
    import torch._dynamo

    if device.type not in _compiler_failures:
        _compiler_failures[device.type] = ""
        try:
            torch.compile(_next, dynamic=False)(torch.zeros(8, device=device))
        except Exception as exc:  # compilers, drivers and torch each raise their own
            _note_failure(device, exc, warn=warn)
    return _compiler_failures[device.type]


def _note_failure(device: torch.device, exc: Exception, *, warn: bool = True) -> None:
    failure = _compiler_failures[device.type] = _line(exc)
    logger.log(
        logging.WARNING if warn else logging.DEBUG,
        "long loops are not compiled, and so take longer: torch cannot compile here (%s)",
        failure,
    )


def _next(values: Tensor) -> Tensor:
    return values + 1


def _line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0][:200]}" if lines else type(exc).__name__
