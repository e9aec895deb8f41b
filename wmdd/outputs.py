"""What a stage function yields while it runs, and what an executor tells its listeners."""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wmdd.process.interruptions import before_end

if TYPE_CHECKING:
    from wmdd.storage.artifact import Artifact  # torch takes seconds, and people ask for --help


PULSE_S = 20.0


class Pulse:
    """Says when news is due, so that slow work is told from a worker that hangs; it changes no result."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PULSE_S

    def is_due(self) -> bool:
        """Tell whether nothing was due for so long; then start to wait again."""
        due = time.monotonic() >= self._next
        if due:
            self._next = time.monotonic() + PULSE_S
        return due


FIRST_SNAPSHOT_S = 5.0
SNAPSHOT_S = 30.0
SNAPSHOT_SHARE = 0.01
SNAPSHOT_RATE = 200e6  # bytes/s: copied, packed, digested and written to a disk by one core


class SnapshotClock:
    """When work of many steps leaves its next snapshot: so seldom that writing takes under a percent of the time.

    Args:
        size: bytes of a snapshot, from which the time of the first one follows.
    """

    def __init__(self, size: int = 0) -> None:
        self._begun = time.monotonic()
        self._cost_s = size / SNAPSHOT_RATE
        self._next = self._begun + max(FIRST_SNAPSHOT_S, self._cost_s / SNAPSHOT_SHARE)
        self._is_asked, self._is_written = threading.Event(), threading.Event()
        global _running
        _running = weakref.ref(self)

    def is_due(self) -> bool:
        """Whether the next snapshot is to be taken."""
        return time.monotonic() >= self._next or self._is_asked.is_set()

    def begin(self) -> None:
        """Start to measure what a snapshot costs."""
        self._begun = time.monotonic()

    def end(self) -> None:
        """Set the time of the next snapshot by what this one cost."""
        now = time.monotonic()
        self._cost_s = now - self._begun
        self._next = now + max(SNAPSHOT_S, self._cost_s / SNAPSHOT_SHARE)
        self._is_asked.clear()
        self._is_written.set()

    def ask(self, limit_s: float) -> None:
        """Wait, from another thread, until a snapshot is written; not at all if one takes longer than this."""
        if self._cost_s < limit_s:
            self._is_written.clear()
            self._is_asked.set()
            self._is_written.wait(limit_s)


_running: weakref.ref[SnapshotClock] | None = None


def save_now(limit_s: float) -> None:
    """Wait, from another thread than that of the work, until it has left a snapshot, if that takes no longer."""
    clock = _running and _running()
    if clock:
        clock.ask(limit_s)


before_end(save_now)


@dataclass(frozen=True)
class Output:
    """A finished unit: saved as soon as it is yielded."""

    unit: str
    value: Artifact


@dataclass(frozen=True)
class Progress:
    """How far the current unit or group is: `done` of `total` steps, and what to say beside it."""

    done: int
    total: int
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A unit that cannot be finished, while the others of its group can."""

    unit: str
    cause: str


@dataclass(frozen=True)
class Note:
    """A line that people should see at once."""

    text: str


@dataclass(frozen=True)
class Snapshot:
    """Where the unit, or the group that is one computation, could go on after a crash; replaces the one before it.

    Args:
        optional: work goes on if it cannot be written: it is many times the size of the result, which may still fit.
    """

    data: bytes
    optional: bool = False
