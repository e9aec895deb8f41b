"""What do the scheduler and the store cost for each unit of work, when the work itself is nothing?

    python -m benchmarks.overhead >> benchmarks/results/overhead.jsonl

Runs so many units of an empty stage on workers of a Ray of its own and in this process, against writing the same files
with nothing around it. Also gives how much the driver's memory grew.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil

from benchmarks.common import report
from ray_jobs.executor import RayExecutor
from wmdd.config.distill import DistillConfig, override
from wmdd.config.recovery import BarycenterConfig
from wmdd.engine.events import Event
from wmdd.engine.run import Executor, LocalExecutor
from wmdd.engine.task import PlannedUnit, StageTask
from wmdd.outputs import Output
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES
from wmdd.stages.base import Unit
from wmdd.storage.artifact import Files
from wmdd.storage.store import ArtifactRef, ArtifactStore

STAGE = "empty"
CONFIG = override(DistillConfig(), {"runtime.device": "cpu"})


class Nothing:
    """An artifact of one small file."""

    def to_files(self) -> dict[str, bytes]:
        return {"nothing.txt": b"nothing"}

    @classmethod
    def from_files(cls, files: Files) -> Nothing:
        return cls()


def _run(section: BarycenterConfig, units: list[Unit[None]], seeds: SeedTree, runtime: Runtime) -> Iterator[Output]:
    yield from (Output(unit.name, Nothing()) for unit in units)


def register() -> None:
    """Make the empty stage known to this process."""
    STAGES[STAGE] = replace(STAGES["barycenter"], name=STAGE, kind=Nothing, function=_run)


def tasks(count: int) -> list[StageTask]:
    """Return that many units, each in a task."""
    refs = [ArtifactRef(STAGE, f"unit-{number}", f"{number:032d}") for number in range(count)]
    return [StageTask(STAGE, ref.unit, {}, 0, (PlannedUnit(ref, {}, {}),)) for ref in refs]


def seconds(executor: Executor, count: int) -> float:
    """Run them all, in a fresh store."""
    items, events = tasks(count), list[Event]()
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(folder)
        begun = time.perf_counter()
        board = executor.run(items, {item.units[0].ref for item in items}, store, events.append)
        took = time.perf_counter() - begun
        assert not board.failures, board.failures[0]
        assert not store.absent(item.units[0].ref for item in items)
    return took


def bare(count: int) -> float:
    """Save them all with nothing around it."""
    with tempfile.TemporaryDirectory() as folder:
        store, begun = ArtifactStore(folder), time.perf_counter()
        for item in tasks(count):
            store.save(item.units[0].ref, Nothing())
        return time.perf_counter() - begun


def main() -> None:
    """Measure every count."""
    from ray_jobs.connect import import_ray

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="+", default=[100, 1000, 10_000])
    args = parser.parse_args()
    register()
    known = {"worker_process_setup_hook": "benchmarks.overhead.register", "env_vars": {"PYTHONPATH": os.getcwd()}}
    ray = import_ray(alone=True)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, runtime_env=known)
    executor, local, me = RayExecutor(CONFIG), LocalExecutor(CONFIG.runtime), psutil.Process()
    seconds(executor, 10)
    # Workers are started for each run: their start is no cost of a unit, and a run of ten units is nearly nothing else.
    start = min(seconds(executor, 10) for _ in range(3))
    for count in args.units:
        before = me.memory_info().rss
        on_ray, in_process, saving = seconds(executor, count) - start, seconds(local, count), bare(count)
        report(
            "overhead per unit",
            units=count,
            ray_ms=round(1e3 * on_ray / count, 2),
            local_ms=round(1e3 * in_process / count, 2),
            saving_ms=round(1e3 * saving / count, 2),
            ray_over_saving=round(on_ray / saving, 2),
            local_over_saving=round(in_process / saving, 2),
            driver_grew_mib=round((me.memory_info().rss - before) / 2**20, 1),
            workers_start_s=round(start, 1),
        )
    ray.shutdown()


if __name__ == "__main__":
    main()
