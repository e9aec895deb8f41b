"""The open tasks of a run: which may run, because their inputs exist. It knows no clock, worker or store."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from wmdd.engine.task import StageTask, comes_late, is_reference, makes_images
from wmdd.errors import StageError
from wmdd.storage.store import ArtifactRef


class Board:
    """The tasks of a run that are not finished, in one queue for each kind of worker.

    Tasks leave a queue in the plan's order, as soon as their inputs exist. Networks that images do not need come after
    all others that are ready, and so do references, which also wait until all tasks that make images were taken. If a
    task fails, only those that need its output are blocked. A task is identified by its stage and name.

    Args:
        tasks: with units left to do, in the plan's order.
        missing: artifacts that are not in the store; a task that needs none of them may run at once.
        queue: name of the queue that a task is in.
    """

    def __init__(
        self,
        tasks: Sequence[StageTask],
        missing: Iterable[ArtifactRef],
        queue: Callable[[StageTask], str] = lambda task: "",
    ) -> None:
        tasks, absent = sorted(tasks, key=comes_late), set(missing)
        self.tasks, self.queue = tasks, queue
        self.failures: list[StageError] = []
        self.blocked: list[StageTask] = []
        self._index = {(task.stage, task.name): index for index, task in enumerate(tasks)}
        self._queue_of = list(map(queue, tasks))
        producer = {unit.ref: index for index, task in enumerate(tasks) for unit in task.units if unit.ref in absent}
        self._consumers: list[list[int]] = [[] for _ in tasks]
        self._unfinished_inputs = [0] * len(tasks)
        self._waiting_inputs = [0] * len(tasks)  # producers that were never ready
        self._reached: set[int] = set()
        self._soon: Counter[str] = Counter()
        for index, task in enumerate(tasks):
            producers = {producer[ref] for ref in task.inputs if ref in producer}
            self._unfinished_inputs[index] = self._waiting_inputs[index] = len(producers)
            for needed in producers:
                self._consumers[needed].append(index)
        self._to_take = {index for index, task in enumerate(tasks) if makes_images(task)}
        self._held = list[int]()  # ready tasks of references
        self._open = set(range(len(tasks)))
        self._left = Counter(self._queue_of)
        self._ready: dict[str, list[int]] = {}
        for index, count in enumerate(self._unfinished_inputs):
            if not count:
                self._push(index)

    def __len__(self) -> int:
        """Return the number of tasks that are neither finished, failed nor blocked by a failure."""
        return len(self._open)

    def queues(self) -> list[str]:
        """Return the queues that have a task ready, in the order of their first ones."""
        first = {queue: indices[0] for queue, indices in self._ready.items() if indices}
        return sorted(first, key=first.__getitem__)

    def ready(self, queue: str) -> int:
        """Return the number of tasks of a queue that may run."""
        return len(self._ready.get(queue, ()))

    def left(self, queue: str) -> int:
        """Return the number of tasks of a queue that are neither finished, failed nor blocked."""
        return self._left[queue]

    def soon(self) -> dict[str, int]:
        """Return the number of tasks that wait only for tasks that are ready or taken, by queue."""
        return {queue: count for queue, count in self._soon.items() if count}

    def take(self, queue: str = "") -> StageTask | None:
        """Take the first ready task from a queue, or None."""
        indices = self._ready.get(queue)
        if not indices:
            return None
        index = heapq.heappop(indices)
        self._pass(index)
        return self.tasks[index]

    def put_back(self, task: StageTask) -> None:
        """Return a task that was taken to its queue."""
        index = self._index[task.stage, task.name]
        if index in self._open:
            self._push(index)

    def finish(self, task: StageTask) -> None:
        """Record that a task's output exists; tasks that waited for nothing else become ready."""
        index = self._index[task.stage, task.name]
        if index not in self._open:
            return
        self._close(index)
        for consumer in self._consumers[index]:
            self._unfinished_inputs[consumer] -= 1
            if not self._unfinished_inputs[consumer] and consumer in self._open:
                self._soon[self._queue_of[consumer]] -= 1
                self._push(consumer)

    def fail(self, task: StageTask, error: StageError) -> None:
        """Record that a task will not be finished; tasks that need its output are blocked, all others go on."""
        index = self._index[task.stage, task.name]
        if index not in self._open:
            return
        self.failures.append(error)
        self._close(index)
        stack = list(self._consumers[index])
        while stack:
            consumer = stack.pop()
            if consumer in self._open:
                self._close(consumer)
                self._soon[self._queue_of[consumer]] -= not self._waiting_inputs[consumer]
                self.blocked.append(self.tasks[consumer])
                stack += self._consumers[consumer]

    def _close(self, index: int) -> None:
        self._open.discard(index)
        self._left[self._queue_of[index]] -= 1
        self._pass(index)

    def _pass(self, index: int) -> None:
        """Record that no reference need wait for a task any more."""
        self._to_take.discard(index)
        if not self._to_take:
            held, self._held = self._held, []
            for reference in held:
                self._push(reference)

    def _push(self, index: int) -> None:
        if self._to_take and is_reference(self.tasks[index]):
            self._held.append(index)
            return
        heapq.heappush(self._ready.setdefault(self._queue_of[index], []), index)
        if index not in self._reached:
            self._reached.add(index)
            for consumer in self._consumers[index]:
                self._waiting_inputs[consumer] -= 1
                self._soon[self._queue_of[consumer]] += not self._waiting_inputs[consumer]
