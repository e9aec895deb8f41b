"""Whole processes: what one costs, and a small run of ``digits`` whose store others read."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # the rest of the environment is this process's
# Every stage of the recipe at its full size, for few steps.
FEW_STEPS = (
    *("--pretrain.epochs", "1", "--recover.iterations", "2", "--relabel.epochs", "2"),
    *("--evaluate.num_students", "1", "--executor", "local"),
)


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU (user and system, of all processes) and of the clock."""

    cpu_s: float
    wall_s: float

    def least(self, other: Cost) -> Cost:
        """Return the least of both: other programs only add to either."""
        return Cost(min(self.cpu_s, other.cpu_s), min(self.wall_s, other.wall_s))


def cost(folder: str, *words: str, environment: Mapping[str, str] = ONE_THREAD) -> Cost:
    """Run Python with these words in a folder; return what it and the processes that it waits for cost."""
    before, begun = _children_s(), time.monotonic()
    python(folder, *words, environment=environment)
    return Cost(_children_s() - before, time.monotonic() - begun)


def python(folder: str, *words: str, environment: Mapping[str, str] = ONE_THREAD) -> str:
    """Run Python with these words in a folder, and our modules on its path; return what it prints."""
    whole = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=whole, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def small_run(folder: str, *options: str) -> str:
    """Run the recipe for few steps; return the run folder, whose store is next to it."""
    python(folder, "-m", "wmdd", "distill", "digits", *FEW_STEPS, *options, "--run", "run")
    return str(Path(folder, "run"))


def cpu_s() -> float:
    """Return the CPU seconds of this process and of all that it has started."""
    import psutil  # which a machine with a GPU may lack, whose steps do not call this

    this = psutil.Process()
    # Each holds those of its children that it has waited for.
    return sum(math.fsum(process.cpu_times()[:4]) for process in (this, *this.children(recursive=True)))


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
