"""Simulated workers: a virtual clock, nodes with slots for workers, and tasks that take a given time.

The scheduler that runs on them is the real one, so its simulated decisions are those that it makes on a cluster.
"""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray_jobs.workers import Message
from wmdd.engine.task import StageTask
from wmdd.errors import ConfigError, WmddError


@dataclass(eq=False)
class _Worker:
    kind: str
    node: str | None = None  # None while it waits for a slot
    slots: tuple[str, ...] = ()  # the node of each
    placed_s: float = 0.0
    is_ready: bool = False
    task: StageTask | None = None


class SimulatedWorkers:
    """See `ray_jobs.workers.Workers`.

    Args:
        nodes: slots of each node, for each kind of worker.
        seconds: of a task on a node; infinity for a task that hangs.
        start_s: from a worker's placement to ``ready``.
        delay_s: from the end of a task to its message.
        error: what a task raises at its end, if anything.
        teams: kinds of workers that take the places of several main ones, with their number.
        shared: all kinds share a node's slots, as workers with and without a GPU share its CPUs.
        fits: whether a node can hold workers of a kind at all.
    """

    def __init__(
        self,
        nodes: dict[str, int],
        seconds: Callable[[StageTask, str], float],
        *,
        start_s: float = 1.0,
        delay_s: float = 0.0,
        error: Callable[[StageTask], WmddError | None] = lambda task: None,
        teams: Mapping[str, int] | None = None,
        shared: bool = False,
        fits: Callable[[str, str], bool] = lambda node, kind: True,
    ) -> None:
        self.nodes, self.seconds, self.start_s, self.delay_s = dict(nodes), seconds, start_s, delay_s
        self.error, self.teams, self.shared, self.fits = error, dict(teams or {}), shared, fits
        self.clock_s = 0.0
        self.assigned: list[tuple[float, str, StageTask]] = []
        self.snapshots: set[int] = set()
        self.present: dict[int, _Worker] = {}
        self.waiting: dict[int, None] = {}  # workers without a slot, oldest first
        self.held_s: collections.Counter[str] = collections.Counter()  # for which workers of a kind had a slot
        self._used = collections.Counter[tuple[str, str]]()
        self._future: list[tuple[float, int, Callable[[], Message | None]]] = []
        self._numbers, self._order = itertools.count(), itertools.count()

    def at(self, seconds: float, action: Callable[[], Any]) -> None:
        """Call a function at a time of the clock."""
        self._push(seconds, lambda: action() and None)

    def now(self) -> float:
        return self.clock_s

    def capacity(self, kind: str) -> int:
        """Return the number of slots that workers of a kind may have."""
        slots = sum(slots for node, slots in self.nodes.items() if self.fits(node, kind))
        return slots // self.teams.get(kind, 1)

    def describe(self) -> str:
        return f"{len(self.nodes)} simulated nodes"

    def start(self, kind: str) -> int:
        """Place a worker, as soon as a node has a slot."""
        number = next(self._numbers)
        self.present[number] = _Worker(kind)
        self.waiting[number] = None
        self._place()
        return number

    def assign(self, worker: int, task: StageTask) -> None:
        """Begin a task, which ends by itself."""
        state = self.present[worker]
        assert state.is_ready
        assert state.task is None, "a worker got a second task"
        state.task = task
        self.assigned.append((self.clock_s, str(state.node), task))
        end_s = self.clock_s + self.seconds(task, str(state.node)) + self.delay_s
        self._push(end_s, lambda: self._end(worker, task))

    def request_snapshots(self, workers: Collection[int], limit_s: float) -> None:
        """Record which workers were asked."""
        self.snapshots |= set(workers)

    def terminate(self, worker: int) -> None:
        """Free a worker's slot."""
        state = self.present.pop(worker, None)
        self.waiting.pop(worker, None)
        if state is not None and state.node in self.nodes:
            self.held_s[state.kind] += (self.clock_s - state.placed_s) * len(state.slots)
            for node in state.slots:
                self._used[self._slots(node, state.kind)] -= node in self.nodes
            self._place()

    def poll(self, timeout: float) -> list[Message]:
        """Move the clock to the next message, by `timeout` at most."""
        end_s, messages = self.clock_s + timeout, list[Message]()
        while self._future and self._future[0][0] <= (self.clock_s if messages else end_s):
            moment, _, happen = heapq.heappop(self._future)
            self.clock_s = max(self.clock_s, moment)
            message = happen()
            messages += [message] if message else []
        self.clock_s = self.clock_s if messages else end_s
        return messages

    def join(self, node: str, slots: int) -> None:
        """Add a node."""
        self.nodes[node] = slots
        self._place()

    def leave(self, node: str) -> None:
        """Remove a node with all its workers."""
        self.nodes.pop(node, None)
        for number in [number for number, worker in self.present.items() if node in worker.slots]:
            self.kill(number, node_left=True)
        for kind in {worker.kind for worker in self.present.values()}:
            self._used.pop(self._slots(node, kind), None)

    def kill(self, worker: int, *, node_left: bool = False) -> None:
        """End a worker's process."""
        self.present[worker].task = None
        self._push(self.clock_s, lambda: Message(worker, "lost", text="killed", node_left=node_left))

    def _place(self) -> None:
        full = set[str]()
        for number in list(self.waiting):
            worker = self.present[number]
            places = self.teams.get(worker.kind, 1)
            slots = () if worker.kind in full else tuple(itertools.islice(self._free(worker.kind), places))
            if len(slots) < places:
                full.add(worker.kind)
                continue
            del self.waiting[number]
            for node in slots:
                self._used[self._slots(node, worker.kind)] += 1
            worker.node, worker.slots, worker.placed_s = slots[0], slots, self.clock_s
            self._push(self.clock_s + self.start_s, lambda number=number: self.end_start(number))  # type: ignore[misc]

    def _slots(self, node: str, kind: str) -> tuple[str, str]:
        return node, "" if self.shared else "main" if kind in self.teams else kind

    def _free(self, kind: str) -> Iterator[str]:
        """Return the node of each slot that is free for a kind."""
        for node, slots in self.nodes.items():
            free = slots - self._used[self._slots(node, kind)] if self.fits(node, kind) else 0
            yield from itertools.repeat(node, free)

    def end_start(self, number: int) -> Message | None:
        """Make a worker ready, and return its message; tests replace this to let starts fail."""
        worker = self.present.get(number)
        if worker is None or worker.node not in self.nodes:
            return None
        worker.is_ready = True
        return Message(number, "ready", node=str(worker.node))

    def _end(self, number: int, task: StageTask) -> Message | None:
        worker = self.present.get(number)
        if worker is None or worker.task is not task:
            return None  # it was terminated or lost
        worker.task = None
        error = self.error(task)
        if error is None:
            return Message(number, "done")
        return Message(number, "unfit" if isinstance(error, ConfigError) else "error", error=error)

    def _push(self, seconds: float, happen: Callable[[], Message | None]) -> None:
        heapq.heappush(self._future, (seconds, next(self._order), happen))
