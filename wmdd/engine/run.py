"""Run a plan: one function runs a stage's task anywhere; executors are loops around it."""

from __future__ import annotations

import contextlib
import functools
import logging
import platform
import re
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wmdd.config.distill import DistillConfig
from wmdd.config.machines import RuntimeConfig
from wmdd.data.index import DatasetIndex
from wmdd.data.load_index import mark_outdated
from wmdd.engine.board import Board
from wmdd.engine.events import Event, Listener
from wmdd.engine.snapshots import ResumeNote
from wmdd.engine.stage_events import StageEvents
from wmdd.engine.task import Plan, PlannedUnit, StageTask
from wmdd.errors import ChangedError, StageError, StorageError, WmddError
from wmdd.outputs import Failure, Note, Progress, Snapshot
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.plans.pretrain import TEACHER
from wmdd.storage.store import ArtifactRef, ArtifactStore
from wmdd.training.teams import check_alone

if TYPE_CHECKING:
    from wmdd.runtime import Runtime

logger = logging.getLogger(__name__)


class Executor(Protocol):
    """Runs the tasks of a run, wherever."""

    def run(
        self, tasks: Sequence[StageTask], missing: Iterable[ArtifactRef], store: ArtifactStore, listener: Listener
    ) -> Board:
        """Run all tasks that do not need the output of a failed one; return the board with the failures.

        Args:
            tasks: with something left to do, in the plan's order.
            missing: their artifacts that are not in the store.
        """


def run_stage(task: StageTask, store: ArtifactStore, runtime: Runtime) -> Iterator[Event]:
    """Run what is missing of a task, saving each unit as soon as it is finished.

    Yields:
        a ``unit`` event for each saved unit, and ``progress`` events between.

    Raises:
        StageError: naming the unit, or the joint task, that failed; all its other units are saved.
    """
    stage = STAGES[task.stage]
    missing = [unit for unit in task.units if unit.ref not in store]
    if not missing:
        return
    failures, parts = list[StageError](), [missing] if stage.joint else [[unit] for unit in missing]
    for place, units in enumerate(parts):
        # Each unit by itself, so that the one at work is known, and its failure leaves the others alone.
        try:
            yield from _compute(task, units, store, runtime)
        except StageError as exc:
            failures.append(exc)
            if isinstance(exc.__cause__, StorageError):  # what cannot be stored need not be computed
                left = (task.prefix + unit.ref.unit for rest in parts[place + 1 :] for unit in rest)
                failures += [StageError(task.stage, unit, exc.cause, exc.passing) for unit in left]
                break
    if failures:
        raise StageError.of(failures) from failures[0].__cause__


def _compute(task: StageTask, missing: list[PlannedUnit], store: ArtifactStore, runtime: Runtime) -> Iterator[Event]:
    """Make one missing unit, or those of a joint task together, from the last snapshot on if there is one."""
    stage = STAGES[task.stage]
    planned = list(task.units) if stage.joint else missing
    at_work = task.name if stage.joint else task.prefix + missing[0].ref.unit
    left = {unit.ref.unit: unit.ref for unit in missing}
    section = type(stage.section_of(DistillConfig())).model_validate(task.section)
    runtime = runtime.uncompiled(section.uncompiled)
    resume = ResumeNote(store, [unit.whole or unit.ref for unit in planned], list(left.values()))
    failures = list[StageError]()
    with _as_stage_errors(task, at_work, store):
        units = [_open(unit, store, saved=unit.ref.unit not in left) for unit in planned]
        if stage.snapshots:
            units[0] = yield from _resumed(units[0], resume, task, at_work)
        begun = None if units[0].resume else 0
        for output in stage.run(section, units, SeedTree(task.seed), runtime):
            if isinstance(output, Progress):
                begun = output.done if begun is None else begun
                steps = (output.done, output.total, output.note, output.metrics)
                yield Event("progress", task.stage, task.name, *steps, begun=begun, units=len(left))
            elif isinstance(output, Note):
                yield Event("note", task.stage, task.name, text=output.text)
            elif isinstance(output, Snapshot):
                if text := resume.write(output, finished=not left):
                    yield Event("note", task.stage, task.name, text=f"{at_work} {text}")
            elif isinstance(output, Failure):
                failures.append(StageError(task.stage, task.prefix + output.unit, output.cause))
            elif output.unit in left:
                seconds = resume.seconds / len(planned)
                facts = {"seconds": seconds, **runtime.describe(), "versions": versions()}
                store.save(left.pop(output.unit), output.value, facts)
                if stage.snapshots and not left:
                    resume.drop()
                name = task.prefix + output.unit
                yield Event("unit", task.stage, name, metrics={"seconds": seconds}, task=task.name)
        if stage.snapshots and failures:
            resume.drop()
    if failures:
        raise StageError.of(failures)


@contextlib.contextmanager
def _as_stage_errors(task: StageTask, at_work: str, store: ArtifactStore) -> Iterator[None]:
    """Raise what fails as an error of the stage, which says whether another try may succeed."""
    try:
        yield
    except WmddError as exc:
        if isinstance(exc, ChangedError):
            mark_outdated(store, task.inputs)
        raise StageError(task.stage, at_work, str(exc), passing=isinstance(exc, StorageError)) from exc
    except Exception as exc:
        logger.debug("%s of %s failed", task.stage, at_work, exc_info=True)
        frames = traceback.extract_tb(exc.__traceback__)
        where = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        cause = f"{type(exc).__name__}: {' '.join(str(exc).split())}{where}"
        raise StageError(task.stage, at_work, cause, passing=True) from exc


def _resumed(unit: Unit[Any], resume: ResumeNote, task: StageTask, at_work: str) -> Generator[Event, None, Unit[Any]]:
    try:
        return replace(unit, resume=resume.read())
    except ValueError as exc:
        text = f"the snapshot of {at_work} is ignored ({exc}): it begins at its first step"
        yield Event("note", task.stage, task.name, text=text)
        return unit


def _open(unit: PlannedUnit, store: ArtifactStore, *, saved: bool) -> Unit[Any]:
    def load(name: str) -> Any:
        refs = unit.inputs[name]
        return load_value(refs, store) if isinstance(refs, ArtifactRef) else [load_value(ref, store) for ref in refs]

    return Unit(unit.ref.unit, unit.params, load, saved=saved)


def load_value(ref: ArtifactRef, store: ArtifactStore) -> Any:
    """Load an artifact as the type that its stage yields."""
    if ref.stage == "index":
        return store.load(ref, DatasetIndex, keep=True)
    # The one that every class needs; networks that label with it must not replace it.
    return store.load(ref, STAGES[ref.stage].kind, keep=ref.unit == TEACHER)


@functools.cache
def versions() -> dict[str, str]:
    """Name the versions that numbers can depend on."""
    found = {name: version(name) for name in ("numpy", "pot", "timm", "torch", "torchvision")}
    return {"python": platform.python_version(), **found}


def workers_of(task: StageTask) -> int:
    """Return how many workers do a task together: those that train a teacher, or a student."""
    if task.stage == "pretrain" and task.units[0].params.weights:
        return 1  # it is loaded
    return int(task.section.get("workers", 1))


class LocalExecutor:
    """Runs tasks one after the other in this process."""

    def __init__(self, config: RuntimeConfig) -> None:
        from wmdd.runtime import Runtime  # imports torch, for seconds, which a process that only plans does without

        self._runtime = Runtime.create(config)

    def run(
        self, tasks: Sequence[StageTask], missing: Iterable[ArtifactRef], store: ArtifactStore, listener: Listener
    ) -> Board:
        """Run tasks as every executor does; raise ConfigError if several workers are to train one network."""
        import torch

        for item in tasks:
            check_alone(f"{item.stage}.workers", workers_of(item))
        board, threads = Board(tasks, missing), torch.get_num_threads()
        while (task := board.take()) is not None:
            listener(Event("begin", task.stage, task.name, total=len(task.units)))
            try:
                for event in run_stage(task, store, self._runtime):
                    listener(event)
            except StageError as exc:
                board.fail(task, exc)
                listener(Event("failed", task.stage, task.name, text=str(exc)))
            else:
                board.finish(task)
                listener(Event("done", task.stage, task.name))
        torch.set_num_threads(threads)
        return board


def run_plan(plan: Plan, store: ArtifactStore, executor: Executor, listener: Listener) -> None:
    """Run a plan with events for the listener; what is in the store already is not run.

    Raises:
        StageError: the first failure, after all that does not depend on it is finished and saved.
    """
    run_plans({"": plan}, store, executor, listener)


def run_plans(plans: Mapping[str, Plan], store: ArtifactStore, executor: Executor, listener: Listener) -> None:
    """Run several plans as one, so that no worker waits for the last unit of a plan; what they share is run once.

    Args:
        plans: of one store and one set, by name; events name their units ``NAME/UNIT``, but for the name "".

    Raises:
        StageError: the first failure, after all that does not depend on it is finished and saved.
    """
    tasks = _together(plans)
    missing = store.absent(unit.ref for task in tasks for unit in task.units)
    left = [task for task in tasks if any(unit.ref in missing for unit in task.units)]
    for text in next(iter(plans.values())).index.notes:
        listener(Event("note", "", text=text))
    stages = StageEvents(tasks, missing, listener)
    if left:
        board = executor.run(left, missing, store, stages)
        stages.close()
        _raise_failures(board, next(iter(plans.values())).index.class_names)


def _together(plans: Mapping[str, Plan]) -> list[StageTask]:
    found, seen = list[StageTask](), set[ArtifactRef]()
    for name, plan in plans.items():
        prefix = f"{name}/" if name else ""
        for task in (task for tasks in plan.tasks.values() for task in tasks):
            refs = {unit.ref for unit in task.units}
            if not refs <= seen:
                found.append(replace(task, name=prefix + task.name, prefix=prefix))
            seen |= refs
    return found


def _raise_failures(board: Board, class_names: Sequence[str]) -> None:
    if not board.failures:
        return

    def named(unit: str) -> str:
        return re.sub(r"class-(\d{5})", lambda found: f"{found[0]} ({class_names[int(found[1])]})", unit)

    first, others = board.failures[0], board.failures[1:]
    cause = first.cause
    if others:
        shown = ", ".join(f"{error.stage} of {named(error.unit)}" for error in others[:5])
        cause += f" (failed too: {shown}{', ...' if len(others) > 5 else ''})"
    if board.blocked:
        stages = ", ".join(dict.fromkeys(task.stage for task in board.blocked))
        finished = len(board.tasks) - len(board.failures) - len(board.blocked)
        cause += "; all else is finished, but" if finished else ";"
        cause += f" {len(board.blocked)} tasks of {stages} need what is missing"
    raise StageError(first.stage, named(first.unit), cause) from first
