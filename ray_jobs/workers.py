"""Workers as the scheduler sees them: the calls that it makes, and the messages that it receives."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from wmdd.engine.events import Event
from wmdd.engine.task import StageTask
from wmdd.errors import ConfigError, WmddError


class NoRoomError(ConfigError):
    """No node has had room for the workers that train a network together; it may when other workers end."""


@dataclass(frozen=True)
class Message:
    """What happened to a worker.

    Args:
        kind: ``ready`` (it can take a task, on `node`), ``event`` (of its task), ``done``, ``error`` (the task raised,
            the worker lives), ``lost`` (the worker is gone), ``unfit`` (it reports why it cannot work for this run, or
            run its task).
        node_left: the worker is gone because its node is.
    """

    worker: int
    kind: Literal["ready", "event", "done", "error", "lost", "unfit"]
    event: Event | None = None
    error: WmddError | None = None
    text: str = ""
    node: str = ""
    pid: int = 0
    node_left: bool = False


@dataclass(eq=False)
class Worker:
    """What the scheduler knows of a worker."""

    number: int
    kind: str
    node: str | None = None  # None until it is ready
    pid: int = 0
    task: StageTask | None = None
    last_message_s: float = 0.0

    @property
    def name(self) -> str:
        """The name by which messages refer to it: its node and process."""
        return f"{self.node} (process {self.pid})" if self.pid else f"{self.node}"


class Workers(Protocol):
    """The workers of a run, by number. Every call but `poll` returns at once."""

    def now(self) -> float:
        """Return seconds on a clock that never goes back."""

    def capacity(self, kind: str) -> int:
        """Return how many workers of a kind the present nodes can hold."""

    def start(self, kind: str) -> int:
        """Request a worker; ``ready`` follows, or never comes if no node can hold it."""

    def assign(self, worker: int, task: StageTask) -> None:
        """Run a task on a worker that is ready and idle."""

    def poll(self, timeout: float) -> list[Message]:
        """Wait up to `timeout` seconds for messages, and return them."""

    def request_snapshots(self, workers: Collection[int], limit_s: float) -> None:
        """Wait until the workers have saved snapshots of their tasks, `limit_s` at most: the run is ending."""

    def terminate(self, worker: int) -> None:
        """End a worker, whatever it does."""

    def describe(self) -> str:
        """Return what a worker reserves and what the nodes have, for a message."""


def last_line(exc: BaseException) -> str:
    """Return the last line of an exception that Ray passes on, which names the cause; its type if it has no text."""
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    return lines[-1].strip()
