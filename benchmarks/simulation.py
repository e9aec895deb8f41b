"""A crew without workers: a virtual clock, nodes that hold so many workers, and tasks that take so many seconds.

The pool that runs on it is the real one, so what a simulation says of its decisions holds for a cluster.
"""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ray_jobs.workers import News
from wmdd.engine.events import Event
from wmdd.engine.plan import StageTask
from wmdd.errors import StageError


@dataclass(eq=False)
class _Seat:
    lane: str
    node: str | None = None
    since: float = 0.0
    up: bool = False
    task: StageTask | None = None


class SimulatedCrew:
    """See `ray_jobs.workers.Crew`.

    Args:
        nodes: workers of each lane that each node holds.
        seconds: of a task on a worker's node; infinity hangs.
        start_s: from a worker's placement to its first task.
        delay_s: from the end of a task to its news.
        error: what a task raises at its end, if anything.
        says: news that a task gives as it begins, if any.
        shared: the lanes share a node's places, as workers with and without a GPU share its CPUs.
        fits: whether a node can hold workers of a lane at all.
    """

    def __init__(
        self,
        nodes: dict[str, int],
        seconds: Callable[[StageTask, str], float],
        *,
        start_s: float = 1.0,
        delay_s: float = 0.0,
        error: Callable[[StageTask], StageError | None] = lambda task: None,
        says: Callable[[StageTask], Event | None] = lambda task: None,
        shared: bool = False,
        fits: Callable[[str, str], bool] = lambda node, lane: True,
    ) -> None:
        self.nodes, self.seconds, self.start_s, self.delay_s = dict(nodes), seconds, start_s, delay_s
        self.error, self.says, self.shared, self.fits = error, says, shared, fits
        self.clock, self.calls = 0.0, 0
        self.given: list[tuple[float, str, StageTask]] = []
        self.saved: set[int] = set()
        self.seats: dict[int, _Seat] = {}
        self.held: collections.Counter[str] = collections.Counter()  # seconds that workers of a lane were there
        self._used = collections.Counter[tuple[str, str]]()
        self._waiting: dict[int, None] = {}
        self._future: list[tuple[float, int, Callable[[], News | None]]] = []
        self._numbers, self._order = itertools.count(), itertools.count()

    def at(self, seconds: float, action: Callable[[], Any]) -> None:
        """Do something when the clock stands there."""
        self._push(seconds, lambda: action() and None)

    def now(self) -> float:
        """Virtual seconds."""
        return self.clock

    def room(self, lane: str) -> int:
        """Count the workers that the nodes hold."""
        return sum(holds for node, holds in self.nodes.items() if self.fits(node, lane))

    def describe(self) -> str:
        """Say what there is."""
        return f"{len(self.nodes)} simulated nodes"

    def hire(self, lane: str) -> int:
        """Place a worker, or let it wait for a node."""
        number = next(self._numbers)
        self.seats[number] = _Seat(lane)
        self._waiting[number] = None
        self._place()
        return number

    def give(self, worker: int, task: StageTask) -> None:
        """Let a task take its time."""
        seat = self.seats[worker]
        assert seat.up
        assert seat.task is None, "a worker got a second task"
        seat.task = task
        self.given.append((self.clock, str(seat.node), task))
        if event := self.says(task):
            self._push(self.clock + self.delay_s, lambda: News(worker, "event", event))
        self._push(self.clock + self.seconds(task, str(seat.node)) + self.delay_s, lambda: self._done(worker, task))

    def save(self, workers: Collection[int], limit_s: float) -> None:
        """Count who was asked."""
        self.saved |= set(workers)

    def dismiss(self, worker: int) -> None:
        """Free a worker's seat."""
        seat = self.seats.pop(worker, None)
        self._waiting.pop(worker, None)
        if seat is not None and seat.node in self.nodes:
            self.held[seat.lane] += self.clock - seat.since
            self._used[self._place_of(str(seat.node), seat.lane)] -= 1
            self._place()

    def hear(self, timeout: float) -> list[News]:
        """Move the clock to the next news, by `timeout` at most."""
        self.calls += 1
        until, news = self.clock + timeout, list[News]()
        while self._future and self._future[0][0] <= (self.clock if news else until):
            moment, _, happen = heapq.heappop(self._future)
            self.clock = max(self.clock, moment)
            heard = happen()
            news += [heard] if heard else []
        self.clock = self.clock if news else until
        return news

    def join(self, node: str, holds: int) -> None:
        """Add a node."""
        self.nodes[node] = holds
        self._place()

    def leave(self, node: str) -> None:
        """Take a node away with all its workers."""
        self.nodes.pop(node, None)
        for number in [number for number, seat in self.seats.items() if seat.node == node]:
            self.lose(number, node_left=True)
        for lane in {seat.lane for seat in self.seats.values()}:
            self._used.pop(self._place_of(node, lane), None)

    def lose(self, worker: int, *, node_left: bool = False) -> None:
        """End a worker's process."""
        seat = self.seats[worker]
        seat.task = None
        self._push(self.clock, lambda: News(worker, "lost", text="killed", node_left=node_left))

    def _place(self) -> None:
        full = set[str]()
        for number in list(self._waiting):
            lane = self.seats[number].lane
            node = None if lane in full else next((n for n in self.nodes if self._is_free(n, lane)), None)
            if node is None:
                full.add(lane)
                continue
            del self._waiting[number]
            self._used[self._place_of(node, lane)] += 1
            self.seats[number].node, self.seats[number].since = node, self.clock
            self._push(self.clock + self.start_s, lambda number=number: self._up(number))  # type: ignore[misc]

    def _place_of(self, node: str, lane: str) -> tuple[str, str]:
        return node, "" if self.shared else lane

    def _is_free(self, node: str, lane: str) -> bool:
        return self.fits(node, lane) and self._used[self._place_of(node, lane)] < self.nodes[node]

    def _up(self, number: int) -> News | None:
        seat = self.seats.get(number)
        if seat is None or seat.node not in self.nodes:
            return None
        seat.up = True
        return News(number, "up", node=str(seat.node))

    def _done(self, worker: int, task: StageTask) -> News | None:
        seat = self.seats.get(worker)
        if seat is None or seat.task is not task:
            return None  # it was dismissed or lost
        seat.task = None
        error = self.error(task)
        return News(worker, "error", error=error) if error else News(worker, "done")

    def _push(self, seconds: float, happen: Callable[[], News | None]) -> None:
        heapq.heappush(self._future, (seconds, next(self._order), happen))
