"""What is known of a run from its events: counts, rates and time left by stage, and who works."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wmdd.events import Event


@dataclass(eq=False)
class StageProgress:
    """One stage of this session.

    Args:
        done, total: units that are saved, of all.
        first: units that were there before this session.
        running: tasks under way, with the units that each holds.
        retried, failed: tasks that started again elsewhere, and that failed for good.
    """

    done: int
    total: int
    begun: float
    first: int = 0
    running: dict[str, int] = field(default_factory=dict)
    retried: int = 0
    failed: int = 0
    ended: float | None = None
    note: str = ""
    steps: tuple[int, int] = (0, 0)
    _parts: dict[str, float] = field(default_factory=dict)
    _before: dict[str, float] = field(default_factory=dict)
    _grown: float | None = None

    def see(self, event: Event, now: float) -> None:
        """Count an event."""
        before = self._finished()
        self._count(event)
        if self._finished() > before:
            self._grown = now

    def _count(self, event: Event) -> None:
        if event.kind == "unit":
            self.done += 1
        elif event.kind == "begin":
            self.running[event.unit] = max(1, event.total)
        elif event.kind == "progress" and event.total:
            self._parts[event.unit] = min(1.0, event.done / event.total)
            # Of a task that starts again in this session, the steps before are this session's, too.
            self._before.setdefault(event.unit, event.begun / event.total * self.running.get(event.unit, 1))
            self.note, self.steps = event.text, (event.done, event.total)
        elif event.kind in ("done", "retry", "failed"):
            self.running.pop(event.unit, None)
            self._parts.pop(event.unit, None)
            self.retried += event.kind == "retry"
            self.failed += event.kind == "failed"

    def left_s(self, now: float) -> float | None:
        """Seconds left at the pace of this session, or None while nothing is known."""
        # The first second says nothing: it is all start-up.
        if self._grown is None or not self._finished() or now - self.begun <= 1:
            return None
        # Between two steps the time left falls. A step that takes longer than all before it says that the pace was
        # another one, as where other programs take the processor.
        worked, since = self._grown - self.begun, now - self._grown
        left = self._due() - self._finished()
        if since > worked:
            return left * (worked + since) / self._finished()
        return max(0.0, left * worked / self._finished() - since)

    @property
    def was_there(self) -> bool:
        """Whether all of its units were in the store before this session."""
        return self.first == self.total

    def outcome(self, now: float) -> str:
        """Return how the stage ended: found, done with its duration, or cut short."""
        seconds = clock((now if self.ended is None else self.ended) - self.begun)
        if self.done < self.total:
            return f"ended short after {seconds}"
        if self.was_there:
            return "found in the store"
        return f"done in {seconds}" + (f", {self.first} found in the store" if self.first else "")

    def _finished(self) -> float:
        parts = sum(part * self.running.get(unit, 1) for unit, part in self._parts.items())
        return min(self.done - self.first + parts - sum(self._before.values()), self._due())

    def _due(self) -> float:
        """Units that were to be done at the start of this session, of which others may have been done in part."""
        return self.total - self.first - sum(self._before.values())

    def describe(self, now: float) -> str:
        """Say what runs, what went wrong, the pace, and the time left."""
        words = []
        if self.running:
            words.append(f"{len(self.running)} running")
        words += [f"{count} {what}" for count, what in ((self.retried, "retried"), (self.failed, "failed")) if count]
        left, rate = self.left_s(now), (self.done - self.first) / max(1e-9, now - self.begun)
        if left is not None and self.ended is None:
            if self.done > self.first:
                words.append(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min")
            words.append(f"{clock(left)} left")
        return ", ".join(words)


class RunProgress:
    """All stages and workers of a run.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.stages: dict[str, StageProgress] = {}
        self.workers: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if event.kind == "workers":
            self.workers = dict(event.metrics)
        elif event.kind == "stage":
            self.stages[event.stage] = StageProgress(event.done, event.total, self.clock(), event.done)
        elif event.kind == "end":
            self.stages[event.stage].done, self.stages[event.stage].ended = event.done, self.clock()
        elif event.stage in self.stages:
            self.stages[event.stage].see(event, self.clock())

    def describe_workers(self) -> str:
        """Say who works where: ``5 workers: 3 on 10.0.0.7, 2 on 10.0.0.8``."""
        total = sum(self.workers.values())
        nodes = sorted(self.workers.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{count} on {node}" for node, count in nodes[:8])
        more = f" and {len(nodes) - 8} more nodes" if len(nodes) > 8 else ""
        return f"{total} worker{'s' * (total != 1)}" + (f": {shown}{more}" if nodes else "")


def clock(seconds: float) -> str:
    """Write a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
