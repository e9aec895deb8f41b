"""Which tasks may run: those whose inputs are there. No clock, no worker and no store, so that it can be simulated."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from wmdd.engine.plan import StageTask
from wmdd.errors import StageError
from wmdd.storage.store import ArtifactRef


class Board:
    """The tasks of a run that are not finished, handed out in the plan's order as their inputs appear.

    A task is named by its stage and name. One that fails takes with it only those that need its output.

    Args:
        tasks: with something left to do, in the plan's order.
        missing: artifacts that are not in the store; whoever needs none of them may run at once.
        lane: tasks of one lane wait for one kind of worker.
    """

    def __init__(
        self,
        tasks: Sequence[StageTask],
        missing: Iterable[ArtifactRef],
        lane: Callable[[StageTask], str] = lambda task: "",
    ) -> None:
        absent = set(missing)
        self.tasks, self.lane = tasks, lane
        self._place = {_name(task): place for place, task in enumerate(tasks)}
        producer = {unit.ref: place for place, task in enumerate(tasks) for unit in task.units if unit.ref in absent}
        self._needed_by: list[list[int]] = [[] for _ in tasks]
        self._waits = [0] * len(tasks)
        self._unseen = [0] * len(tasks)  # needed tasks that were never ready
        self._reached: set[int] = set()
        self._soon: Counter[str] = Counter()
        for place, task in enumerate(tasks):
            needs = {producer[ref] for ref in _inputs(task) if ref in producer}
            self._waits[place] = self._unseen[place] = len(needs)
            for need in needs:
                self._needed_by[need].append(place)
        self._open = set(range(len(tasks)))
        self._left = Counter(map(lane, tasks))
        self._ready: dict[str, list[int]] = {}
        for place, waits in enumerate(self._waits):
            if not waits:
                self._push(place)
        self.failures: list[StageError] = []
        self.blocked: list[StageTask] = []

    def __len__(self) -> int:
        """Count the tasks that are neither finished, failed nor blocked by a failure."""
        return len(self._open)

    def lanes(self) -> list[str]:
        """List the lanes that have a task ready."""
        return [lane for lane, places in self._ready.items() if places]

    def ready(self, lane: str) -> int:
        """Count the tasks that wait for nothing but a worker of this lane."""
        return len(self._ready.get(lane, ()))

    def left(self, lane: str) -> int:
        """Count the tasks of a lane that are neither finished, failed nor blocked."""
        return self._left[lane]

    def lanes_to_come(self) -> list[str]:
        """List the lanes of which `soon` counts tasks."""
        return [lane for lane, count in self._soon.items() if count]

    def soon(self, lane: str) -> int:
        """Count the tasks of a lane that wait only for tasks that are ready or handed out."""
        return self._soon[lane]

    def take(self, lane: str = "") -> StageTask | None:
        """Hand out the first ready task of a lane, or None."""
        places = self._ready.get(lane)
        return self.tasks[heapq.heappop(places)] if places else None

    def put_back(self, task: StageTask) -> None:
        """Take a task back, to be handed out again."""
        if self.is_open(task):
            self._push(self._place[_name(task)])

    def is_open(self, task: StageTask) -> bool:
        """Tell whether a task still has to be finished."""
        return self._place[_name(task)] in self._open

    def finish(self, task: StageTask) -> None:
        """Note that a task's output is in the store; who waited for it alone becomes ready."""
        place = self._place[_name(task)]
        if place not in self._open:
            return
        self._close(place)
        for other in self._needed_by[place]:
            self._waits[other] -= 1
            if not self._waits[other] and other in self._open:
                self._soon[self.lane(self.tasks[other])] -= 1
                self._push(other)

    def fail(self, task: StageTask, error: StageError) -> None:
        """Note that a task will not be finished; who needs it is blocked, all others go on."""
        place = self._place[_name(task)]
        if place not in self._open:
            return
        self.failures.append(error)
        self._close(place)
        stack = list(self._needed_by[place])
        while stack:
            other = stack.pop()
            if other in self._open:
                self._close(other)
                self._soon[self.lane(self.tasks[other])] -= not self._unseen[other]
                self.blocked.append(self.tasks[other])
                stack += self._needed_by[other]

    def _close(self, place: int) -> None:
        self._open.discard(place)
        self._left[self.lane(self.tasks[place])] -= 1

    def _push(self, place: int) -> None:
        heapq.heappush(self._ready.setdefault(self.lane(self.tasks[place]), []), place)
        if place not in self._reached:
            self._reached.add(place)
            for other in self._needed_by[place]:
                self._unseen[other] -= 1
                self._soon[self.lane(self.tasks[other])] += not self._unseen[other]


def _name(task: StageTask) -> tuple[str, str]:
    return task.stage, task.name


def _inputs(task: StageTask) -> Iterable[ArtifactRef]:
    seen: set[int] = set()
    for unit in task.units:
        for refs in unit.inputs.values():
            if isinstance(refs, ArtifactRef):
                yield refs
            elif id(refs) not in seen:  # the units of a task share long lists, such as all classes
                seen.add(id(refs))
                yield from refs
