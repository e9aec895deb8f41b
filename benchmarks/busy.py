"""Step: a whole run of a recipe with a temporary Ray, on an idle machine and with one busy process for each core.

With as many busy processes as cores, half of each core is left: twice the idle time is the least that can be reached.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.processes import FEW_STEPS, Cost, cost
from benchmarks.steps import Record, Setting
from wmdd.cpus import free_cpus, usable_cpus


def run(setting: Setting, record: Record, recipe: str) -> None:
    """Time the recipe from nothing, as a user starts it."""
    cores = usable_cpus()
    record(recipe=recipe, cores=cores, cores_free_at_start=free_cpus(cores))
    options = FEW_STEPS if setting.toy else ()
    idle = _cost(recipe, *options)
    record(ways={"idle": round(idle.wall_s, 1)}, result=f"{recipe}: {idle.wall_s:.0f} s idle")
    with _busy(cores):
        busy = _cost(recipe, *options)
    record(
        ways={"idle": round(idle.wall_s, 1), "busy": round(busy.wall_s, 1)},
        ratio=round(busy.wall_s / idle.wall_s, 2),
        result=f"{recipe}: {idle.wall_s:.0f} s idle, {busy.wall_s:.0f} s with {cores} busy processes",
    )


def _cost(recipe: str, *options: str) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        return cost(folder, "-m", "wmdd", "distill", recipe, *options, "--run", "run")


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep this number of processes busy inside the block."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
