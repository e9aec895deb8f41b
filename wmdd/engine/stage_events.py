"""Where each stage of a run begins and ends, worked out from the events of its tasks."""

from __future__ import annotations

from collections.abc import Sequence

from wmdd.engine.events import Event, Listener
from wmdd.engine.task import StageTask
from wmdd.stages import STAGES
from wmdd.storage.store import ArtifactRef


class StageEvents:
    """A listener that passes an executor's events on, with where each stage begins and ends, and every unit once.

    The tasks are all of the run's; only artifacts that are missing from the store are counted as left to do.
    """

    def __init__(self, tasks: Sequence[StageTask], missing: set[ArtifactRef], listener: Listener) -> None:
        self._listener = listener
        self._tasks = {(task.stage, task.name): task for task in tasks}
        self._total = dict.fromkeys(STAGES, 0)
        self._left: dict[str, set[str]] = {stage: set() for stage in STAGES}
        for task in tasks:
            self._total[task.stage] += len(task.units)
            self._left[task.stage] |= {task.prefix + unit.ref.unit for unit in task.units if unit.ref in missing}
        self._reported: set[tuple[str, str]] = set()
        for stage, units in self._left.items():
            if self._total[stage] and not units:
                self._report("stage", stage)
                self._report("end", stage)

    def __call__(self, event: Event) -> None:
        if event.stage:
            self._report("stage", event.stage)
        if event.kind == "unit":
            self._count(event)
            return
        if event.kind == "done":  # a worker that died after it saved a unit sent no event
            task = self._tasks[event.stage, event.unit]
            for unit in task.units:
                self._count(Event("unit", event.stage, task.prefix + unit.ref.unit))
        self._listener(event)
        if event.kind == "done" and not self._left[event.stage]:
            self._report("end", event.stage)

    def _count(self, event: Event) -> None:
        if event.unit in self._left[event.stage]:  # of two copies of a task, the first one's event counts
            self._left[event.stage].discard(event.unit)
            self._listener(event)

    def _report(self, kind: str, stage: str) -> None:
        """Report that a stage begins or ends, once."""
        if (kind, stage) not in self._reported:
            self._reported.add((kind, stage))
            total = self._total[stage]
            self._listener(Event(kind, stage, done=total - len(self._left[stage]), total=total))

    def close(self) -> None:
        """End the stages that a failure cut short."""
        for stage, units in self._left.items():
            if units and ("stage", stage) in self._reported:
                self._report("end", stage)
