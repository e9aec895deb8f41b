"""The failed attempts of tasks: which are tried again, and when."""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Iterator

from wmdd.engine.task import StageTask

BACKOFF_S = 0.5
MAX_NODE_LOSSES = 20  # of one task, which a node that leaves costs no attempt: nothing may be retried forever


class Retries:
    """Failed attempts by task, and the tasks that pause before the next attempt.

    Args:
        max_attempts: of a task, without those that ended because a node left.
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._attempts = collections.Counter[tuple[str, str]]()
        self._node_losses = collections.Counter[tuple[str, str]]()
        self._paused: list[tuple[float, int, StageTask]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        """Return the number of tasks that pause."""
        return len(self._paused)

    def add(self, task: StageTask, now: float, *, node_left: bool = False) -> int:
        """Record a failed attempt, and pause the task before the next one.

        Returns:
            0 if there is a next one, else the number of attempts that failed.
        """
        key = task.stage, task.name
        (self._node_losses if node_left else self._attempts)[key] += 1
        attempts, losses = self._attempts[key], self._node_losses[key]
        if attempts >= self._max_attempts or losses >= MAX_NODE_LOSSES:
            return attempts + losses
        pause = BACKOFF_S * 2 ** (attempts + min(losses, 4))
        heapq.heappush(self._paused, (now + pause, next(self._order), task))
        return 0

    def due(self, now: float) -> Iterator[StageTask]:
        """Return the tasks whose pause is over."""
        while self._paused and self._paused[0][0] <= now:
            yield heapq.heappop(self._paused)[2]
