"""Step: what is there, and the rate of a matrix product as the ceiling of all that follows."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version

import torch

from benchmarks.gpu.device import ceiling_tflops, open_runtime
from benchmarks.gpu.steps import NO_GPU, Setting, Tell
from wmdd.pipeline import versions
from wmdd.runtime import compiler_failure


def run(setting: Setting, tell: Tell) -> None:
    """Tell card, driver and versions, and the rate of matrix products."""
    if not setting.toy and not torch.cuda.is_available():
        raise SystemExit(NO_GPU)
    runtime = open_runtime(setting)
    tell(machine=runtime.describe(), versions={**versions(), "cuda": torch.version.cuda, "triton": _triton()})
    if not setting.toy:
        card = torch.cuda.get_device_properties(0)
        tell(memory_gib=round(card.total_memory / 2**30, 1), multiprocessors=card.multi_processor_count)
        tell(capability=f"{card.major}.{card.minor}", driver=_driver(), cpus=_cpus())
    rates = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32 or TF32", torch.float32)):
        rates[name] = round(ceiling_tflops(setting, dtype), 3 if setting.toy else 1)
        tell(ceiling_tflops=rates)
    # Tried at last: nothing is known of the compilers of this machine, and what does not answer ends with the step.
    failure = compiler_failure(runtime.device) if runtime.compile else ""
    facts = runtime.describe()
    shown = ", ".join(f"{name} {rate:g}" for name, rate in rates.items()) + f"{'; cannot compile' if failure else ''}"
    tell(machine=facts, compiler_failure=failure)
    tell(result=f"{facts['device']}, torch {torch.__version__}; matrix product: {shown} TFLOP/s")


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "not known"


def _cpus() -> str:
    with open("/proc/cpuinfo") as cpuinfo:
        names = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return f"{len(names)} x {names[0] if names else platform.machine()}"


def _triton() -> str:
    try:
        return version("triton")
    except ImportError:
        return "none"
