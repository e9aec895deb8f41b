"""Step: what is there, and the rates of matrix products as the ceilings of all that follows."""

from __future__ import annotations

import platform
from importlib.metadata import distributions
from typing import Any

import torch

from benchmarks.device import ceilings_tflops, open_runtime
from benchmarks.steps import Record, Setting, output_of
from wmdd.data.layouts.sources import list_files
from wmdd.engine.run import versions
from wmdd.errors import WmddError
from wmdd.runtime.compilation import compiler_failure


def run(setting: Setting, record: Record) -> None:
    """Write card, driver, versions and rates of matrix products; refuse a machine without a GPU, or unusable data."""
    if refusal := _refusal(setting):
        record(refused=refusal)
        raise SystemExit(2)
    runtime = open_runtime(setting)
    machine = runtime.describe() | _facts(setting)
    record(machine=machine)
    ceilings = ceilings_tflops(setting)
    record(ceilings_tflops=ceilings)
    # Last, because nothing is known of this machine's compilers: one that hangs is ended with this step.
    failure = compiler_failure(runtime.device) if runtime.device.type == "cuda" else ""
    record(machine=machine | runtime.describe(), compiler_failure=failure)
    rates = ", ".join(f"{name} {rate:g}" for name, rate in ceilings.items())
    can = f"; torch cannot compile here: {failure}" if failure else ""
    record(result=f"{machine['device']}, torch {torch.__version__}; matrix products, TFLOP/s: {rates}{can}")


def _refusal(setting: Setting) -> str:
    if setting.toy:
        return ""
    if setting.device == "cuda" and not torch.cuda.is_available():
        built = f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'no version'}"
        return f"no GPU: {built}, sees none (driver: {_driver()}); make gpu TOY=1 rehearses the steps on the CPU"
    for option, url in (("--data", setting.data), ("--tiny", setting.tiny)):
        try:
            if url and not url.startswith("torchvision:"):
                list_files(url)
        except WmddError as exc:
            return f"{option} {str(exc).removeprefix('data.path=')}"
    return ""


def _facts(setting: Setting) -> dict[str, Any]:
    """Return what every line holds in addition to the runtime's description."""
    triton = next((found.version for found in distributions(name="triton")), "none")
    facts: dict[str, Any] = {"versions": {**versions(), "cuda": torch.version.cuda, "triton": triton}}
    facts |= {"cpus": _cpus(), "driver": _driver()}
    if setting.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts |= {"memory_gib": round(card.total_memory / 2**30, 1), "multiprocessors": card.multi_processor_count}
        facts |= {"capability": f"{card.major}.{card.minor}"}
    return facts


def _driver() -> str:
    query = "--query-gpu=driver_version,clocks.max.sm,power.limit"
    return output_of("nvidia-smi", query, "--format=csv,noheader") or "none"


def _cpus() -> str:
    with open("/proc/cpuinfo") as cpuinfo:
        names = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return f"{len(names)} x {names[0] if names else platform.machine()}"
