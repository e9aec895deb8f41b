"""Run a plan: one function runs a stage's task anywhere; executors are loops around it."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import torch

from wmdd.config import DistillConfig, RuntimeConfig
from wmdd.data.index import DatasetIndex
from wmdd.errors import StageError, WmddError
from wmdd.events import Event, Progress, Snapshot
from wmdd.plan import Plan, PlannedUnit, StageTask
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.store import ArtifactRef, ArtifactStore

logger = logging.getLogger(__name__)
Listener = Callable[[Event], None]


class Executor(Protocol):
    """Runs the tasks of one stage, wherever."""

    def run(self, stage: str, tasks: Sequence[StageTask], store: ArtifactStore, listener: Listener) -> None:
        """Run all tasks; raise the first failure after the others are finished and saved."""

    def close(self) -> None:
        """Give workers back."""


def run_stage(task: StageTask, store: ArtifactStore, runtime: Runtime) -> Iterator[Event]:
    """Run what is missing of a task, saving each unit as soon as it is finished.

    Yields:
        a ``unit`` event for each saved unit, and ``progress`` events between.

    Raises:
        StageError: naming the unit; what was finished before is saved.
    """
    stage = STAGES[task.stage]
    missing = {unit.ref.unit: unit for unit in task.units if unit.ref not in store}
    if not missing:
        return
    planned = list(task.units) if stage.joint else list(missing.values())
    section = type(getattr(DistillConfig(), stage.section)).model_validate(task.section)
    units = [_open(unit, store) for unit in planned]
    begun, share = time.perf_counter(), len(planned) if stage.joint else 1
    current = task.name
    try:
        for news in stage.run(section, units, SeedTree(task.seed), runtime):
            if isinstance(news, Progress):
                yield Event("progress", task.stage, task.name, news.done, news.total, news.note, news.metrics)
            elif isinstance(news, Snapshot):
                store.write_note(_resume_note(planned[0].ref), news.data)
            elif news.unit in missing:
                current = news.unit
                ref = missing[news.unit].ref
                seconds = (time.perf_counter() - begun) / share
                store.save(ref, news.value, {"seconds": seconds, **runtime.describe(), "versions": versions()})
                store.drop_note(_resume_note(ref))
                begun = begun if stage.joint else time.perf_counter()
                yield Event("unit", task.stage, news.unit, metrics={"seconds": seconds})
    except WmddError as exc:
        raise StageError(task.stage, current, str(exc)) from exc
    except Exception as exc:
        logger.exception("%s of %s failed", task.stage, current)
        raise StageError(task.stage, current, f"{type(exc).__name__}: {' '.join(str(exc).split())}") from exc


def _open(unit: PlannedUnit, store: ArtifactStore) -> Unit:
    def load(name: str) -> Any:
        refs = unit.inputs[name]
        return load_value(refs, store) if isinstance(refs, ArtifactRef) else [load_value(ref, store) for ref in refs]

    return Unit(unit.ref.unit, unit.params, load, store.read_note(_resume_note(unit.ref)))


def load_value(ref: ArtifactRef, store: ArtifactStore) -> Any:
    """Load an artifact as the type that its stage yields."""
    if ref.stage == "index":
        return store.load(ref, DatasetIndex, keep=True)
    return store.load(ref, STAGES[ref.stage].kind, keep=ref.stage == "pretrain")


def _resume_note(ref: ArtifactRef) -> str:
    return f"resume-{ref.stage}-{ref.key}"


def versions() -> dict[str, str]:
    """Name the versions that numbers can depend on."""
    found = {name: version(name) for name in ("numpy", "pot", "timm", "torch", "torchvision")}
    return {"python": platform.python_version(), **found}


class LocalExecutor:
    """Runs tasks one after the other in this process."""

    def __init__(self, config: RuntimeConfig) -> None:
        self._runtime = Runtime.create(config)

    def run(self, stage: str, tasks: Sequence[StageTask], store: ArtifactStore, listener: Listener) -> None:
        """Run all tasks; raise the first failure after the others are finished and saved."""
        threads, failures = torch.get_num_threads(), []
        for task in tasks:
            try:
                for event in run_stage(task, store, self._runtime):
                    listener(event)
            except StageError as exc:
                failures.append(exc)
                listener(Event("note", stage, exc.unit, text=str(exc)))
        torch.set_num_threads(threads)
        raise_failures(failures)

    def close(self) -> None:
        """Nothing to give back."""


def raise_failures(failures: Sequence[StageError]) -> None:
    """Raise the first of several failures, saying how many there were."""
    if len(failures) > 1:
        first = failures[0]
        raise StageError(
            first.stage, first.unit, f"{first.cause} (and {len(failures) - 1} more units failed)"
        ) from first
    if failures:
        raise failures[0]


def run_plan(plan: Plan, store: ArtifactStore, executor: Executor, listener: Listener) -> None:
    """Run every stage of a plan in order, telling the listener; what is in the store already is not run."""
    for stage, tasks in plan.tasks.items():
        left = [task for task in tasks if any(unit.ref not in store for unit in task.units)]
        total = len(plan.refs(stage))
        done = total - sum(unit.ref not in store for task in left for unit in task.units)
        listener(Event("stage", stage, done=done, total=total))
        if left:
            executor.run(stage, left, store, listener)
        listener(Event("end", stage, done=total, total=total))
