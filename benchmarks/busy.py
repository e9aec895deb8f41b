"""A whole run while other programs work: how many times its idle time does it take? `python -m benchmarks.busy`."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.common import report, seconds_of_run
from wmdd.cpus import free_cpus, usable_cpus

WISHED = 3.0  # with as many busy processes as cores, half of each core is left: two is the least that can be hoped for


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep this number of processes busy inside the block."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def timed(recipe: str, executor: str) -> float:
    """Return the seconds of a run of the recipe from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        return seconds_of_run(folder, recipe, "--executor", executor)


def main() -> int:
    """Time a recipe on this machine as it is, and with one busy process for each core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--executor", default="ray", choices=("ray", "local"))
    parser.add_argument("--processes", type=int, default=usable_cpus(), help="busy ones (default: one for each core)")
    options = parser.parse_args()
    free, cores = free_cpus(usable_cpus()), usable_cpus()
    idle_s = timed(options.recipe, options.executor)
    with busy(options.processes):
        busy_s = timed(options.recipe, options.executor)
    report(
        "busy",
        recipe=options.recipe,
        executor=options.executor,
        busy_processes=options.processes,
        cores=cores,
        cores_free_at_start=free,
        idle_s=round(idle_s, 1),
        busy_s=round(busy_s, 1),
        ratio=round(busy_s / idle_s, 2),
        wished=WISHED,
    )
    return int(busy_s > WISHED * idle_s)


if __name__ == "__main__":
    sys.exit(main())
