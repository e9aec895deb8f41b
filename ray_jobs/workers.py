"""What a pool of workers says and hears: the border between its rules and whatever runs the workers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from wmdd.engine.events import Event
from wmdd.engine.plan import StageTask
from wmdd.errors import WmddError


@dataclass(frozen=True)
class News:
    """What a crew heard.

    Args:
        kind: ``up`` (a worker is ready, on `node`), ``event`` (of its task), ``done``, ``error`` (the task raised; the
            worker lives), ``lost`` (the worker is gone), ``unfit`` (it says that it cannot work for this run).
        node_left: the worker is gone because its node is.
    """

    worker: int
    kind: Literal["up", "event", "done", "error", "lost", "unfit"]
    event: Event | None = None
    error: WmddError | None = None
    text: str = ""
    node: str = ""
    pid: int = 0
    node_left: bool = False


class Crew(Protocol):
    """Workers somewhere. Every call returns at once but `hear`, which waits for news up to `timeout` seconds."""

    def now(self) -> float:
        """Seconds on the crew's clock."""

    def room(self, lane: str) -> int:
        """How many workers of a lane the nodes that are there now can hold."""

    def hire(self, lane: str) -> int:
        """Ask for a worker; ``up`` comes later, or never where none fits."""

    def give(self, worker: int, task: StageTask) -> None:
        """Let a worker that is up run a task."""

    def hear(self, timeout: float) -> list[News]:
        """Give what happened."""

    def save(self, workers: Collection[int], limit_s: float) -> None:
        """Let workers leave a snapshot of their tasks, where that takes no longer than this: the run ends."""

    def dismiss(self, worker: int) -> None:
        """End a worker, whatever it does."""

    def describe(self) -> str:
        """Say what a worker asks for and what there is, for a message."""
