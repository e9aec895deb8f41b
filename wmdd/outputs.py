"""What a stage function yields while it runs, and when it is due."""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from wmdd.process.interruptions import before_end

if TYPE_CHECKING:
    from wmdd.storage.artifact import Artifact  # imports torch, which takes seconds, also for --help

PULSE_S = 20.0
FIRST_SNAPSHOT_S = 5.0
SNAPSHOT_S = 30.0
SNAPSHOT_SHARE = 0.01
SNAPSHOT_RATE = 200e6  # bytes/s: copied, packed, digested and written to a disk by one core


@dataclass(frozen=True)
class Output:
    """A finished unit; it is saved as soon as it is yielded."""

    unit: str
    value: Artifact


@dataclass(frozen=True)
class Progress:
    """How far the current unit or group is: `done` of `total` steps, a note to show with it, and figures."""

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
    """A line to show at once."""

    text: str


@dataclass(frozen=True)
class Snapshot:
    """The state from which the unit, or the group that is one computation, can continue; replaces the one before.

    If an optional one cannot be written, the work continues: the result, which may be much smaller, may still fit.
    """

    data: bytes
    optional: bool = False


class Pulse:
    """Asks for progress every `PULSE_S` seconds, by which slow work differs from a worker that hangs."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PULSE_S

    def is_due(self) -> bool:
        """Whether progress should be yielded; if so, the next one is due `PULSE_S` later."""
        due = time.monotonic() >= self._next
        if due:
            self._next = time.monotonic() + PULSE_S
        return due


class SnapshotClock:
    """Decides when work of many steps yields a snapshot, so that writing takes at most a hundredth of the time.

    The time of the first one follows from the size of a snapshot in bytes.
    """

    latest: ClassVar[weakref.ref[SnapshotClock] | None] = None  # of the work in progress, for `save_now`

    def __init__(self, size: int = 0) -> None:
        self._begun = time.monotonic()
        self._cost_s = size / SNAPSHOT_RATE
        self._next = self._begun + max(FIRST_SNAPSHOT_S, self._cost_s / SNAPSHOT_SHARE)
        self._is_requested, self._is_written = threading.Event(), threading.Event()
        SnapshotClock.latest = weakref.ref(self)

    def is_due(self) -> bool:
        """Whether the next snapshot should be yielded."""
        return time.monotonic() >= self._next or self._is_requested.is_set()

    def begin(self) -> None:
        """Start to measure the cost of a snapshot."""
        self._begun = time.monotonic()

    def end(self) -> None:
        """Set the time of the next snapshot by the cost of this one."""
        now = time.monotonic()
        self._cost_s = now - self._begun
        self._next = now + max(SNAPSHOT_S, self._cost_s / SNAPSHOT_SHARE)
        self._is_requested.clear()
        self._is_written.set()

    def request(self, limit_s: float) -> None:
        """Wait, from another thread, until a snapshot is written; return at once if one takes longer than this."""
        if self._cost_s < limit_s:
            self._is_written.clear()
            self._is_requested.set()
            self._is_written.wait(limit_s)


def save_now(limit_s: float) -> None:
    """Wait, from another thread, until the work in progress has written a snapshot, or for `limit_s` seconds."""
    clock = SnapshotClock.latest and SnapshotClock.latest()
    if clock:
        clock.request(limit_s)


before_end(save_now)
