"""Step: what the scheduler and the store cost for each unit of work, if the work itself is nothing.

Units of an empty stage run on workers of a temporary Ray and in this process; the plain loop saves the same files with
nothing around it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.steps import Record, Setting
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
    STAGES[STAGE] = replace(STAGES["barycenter"], name=STAGE, yields=f"{__name__}:Nothing", runs=f"{__name__}:_run")


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


def run(setting: Setting, record: Record, units: int) -> None:
    """Run the units on workers of a temporary Ray, in this process, and with nothing around them."""
    from ray_jobs.connect import import_ray

    units = 20 if setting.toy else units
    register()
    environment = {
        "worker_process_setup_hook": "benchmarks.overhead.register",
        "env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])},
    }
    local, process = LocalExecutor(CONFIG.runtime), psutil.Process()
    ways = {"saving alone": bare(units), "in this process": seconds(local, units)}
    _record(record, units, ways)
    ray = import_ray(alone=True)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, runtime_env=environment)
    executor = RayExecutor(CONFIG)
    # Workers are started for each run: their start is no cost of a unit, and a run of ten units is hardly more.
    start = min(seconds(executor, 10) for _ in range(2))
    before = process.memory_info().rss
    ways["on Ray"] = seconds(executor, units) - start
    grown = (process.memory_info().rss - before) / 2**20
    record(workers_start_s=round(start, 1), driver_grew_mib=round(grown, 1))
    _record(record, units, ways)
    ray.shutdown()


def _record(record: Record, units: int, ways: dict[str, float]) -> None:
    per_unit_ms = {name: round(1e3 * taken / units, 2) for name, taken in ways.items()}
    shown = ", ".join(f"{name} {value:g}" for name, value in per_unit_ms.items())
    ratios = {name: round(taken / ways["saving alone"], 2) for name, taken in ways.items()}
    record(units=units, ways=per_unit_ms, ratio=ratios, result=f"ms for each of {units} units: {shown}")
