"""Steps: what compiling recovery costs and, on a CPU, from how many steps on it pays."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch._inductor.runtime.cache_dir_utils import cache_dir

from benchmarks.device import open_runtime
from benchmarks.processes import cpu_s
from benchmarks.recovery import IMAGES, NOT_COMPILED, ROUNDS, Case, alternate
from benchmarks.steps import Record, Setting
from wmdd.config.base import Stem
from wmdd.runtime.compilation import compiler_failure

COMPILED = "wmdd, compiled"
FAILED = "torch cannot compile here"


def warm(setting: Setting, record: Record, sizes: list[int]) -> None:
    """Compile recovery at each size, while another step runs, so that later steps find it in torch's cache on disk."""
    figures: dict[str, float] = {}
    cache = "warm" if any(Path(cache_dir()).glob("fxgraph/*")) else "cold"
    record(cache=cache)
    for size in sizes:
        case = Case(setting, size, IMAGES)
        next(case.events(case.plainly()))  # the device and its libraries are loaded before the clock runs
        if failure := compiler_failure(case.runtime.device):
            record(compiler_failure=failure, result=FAILED)
            return
        figures[f"{size} px"] = round(case.first_step_s(case.runtime), 1)
        shown = ", ".join(f"{name} {seconds:g}" for name, seconds in figures.items())
        record(first_step_s=figures, result=f"seconds until the first compiled step ({cache} cache): {shown}")


def run(setting: Setting, record: Record, size: int, networks: Sequence[tuple[str, Stem]]) -> None:
    """Compile recovery of 100 images on this CPU by each network, as a new worker without a cache; time both ways.

    The import of torch's compiler, about 1 s, is left out: this step's process has it.

    All is CPU time, that of the compiler's processes included, which other programs hardly change.

    Args:
        networks: models, each with its stem; a rehearsal takes one.
    """
    record(size_px=size, clock="CPU time")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # read at each compilation of this process, which is the step's
        begun = cpu_s()
        if failure := compiler_failure(open_runtime(setting).device):
            record(compiler_failure=failure, result=FAILED)
            return
        start_s = cpu_s() - begun
        figures: dict[str, dict[str, Any]] = {}
        for model, stem in networks[: 1 if setting.toy else None]:
            case = Case(setting, size, IMAGES, stem, model)
            name = f"{case.model}, {stem} stem" if case.model.startswith("resnet") else case.model
            figures[name] = _measured(case, start_s)
            record(images=case.images, compiler_start_s=round(start_s, 1), ways=figures)
            record(ratio={name: each["ratio"] for name, each in figures.items()})
            record(result="\n".join(f"{name}: {_line(**each)}" for name, each in figures.items()))


def _measured(case: Case, start_s: float) -> dict[str, Any]:
    """Return milliseconds of a step in both ways, seconds to compile, and the number of steps that save them."""
    case.first_step_s(case.plainly())  # libraries are loaded before the clock runs
    first_s, again_s = (case.first_step_s(case.compiled(), cpu_s) for _ in range(2))
    compile_s = start_s + first_s - again_s
    ways = {NOT_COMPILED: case.plainly(), COMPILED: case.compiled()}
    *_, ms = alternate({name: case.timed(runtime, time.process_time) for name, runtime in ways.items()}, ROUNDS)
    saved_s = (ms[NOT_COMPILED] - ms[COMPILED]) / 1e3
    return {
        "ms": {name: round(value, 2) for name, value in ms.items()},
        "ratio": round(ms[NOT_COMPILED] / ms[COMPILED], 2),
        "compile_s": round(compile_s, 1),
        "pays_from_steps": math.ceil(compile_s / saved_s) if saved_s > 0 else None,
    }


def _line(ms: dict[str, float], ratio: float, compile_s: float, pays_from_steps: int | None) -> str:
    pays = f"pays from {pays_from_steps:,} steps on" if pays_from_steps else "never pays"
    both = f"{ms[NOT_COMPILED]:.3g} ms a step, compiled {ms[COMPILED]:.3g}, {ratio:g} times as fast"
    return f"{both}; {compile_s:.0f} s to compile: {pays}"
