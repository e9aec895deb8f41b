"""What the events of a run say: counts, rates and time left by stage, and the workers by node."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wmdd.engine.events import Event

# Shortly after the first report a pace would not last.
SURE_S = 2.0


@dataclass(eq=False)
class StageProgress:
    """One stage of this session.

    The pace is measured from the first report: what comes before it, such as imports, the first batches and
    compilation, comes once. So what a task's first report says is done counts as work only if the task began later.

    Args:
        done, total: units that are saved, of all.
        first: units that were saved before this session.
        running: tasks under way, with the units that each holds.
        retried, failed: number of tasks that started again elsewhere, and that failed for good.
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
    _parts: dict[str, float] = field(default_factory=dict)  # of the units that a task computes, in units
    _before: dict[str, float] = field(default_factory=dict)  # what does not count for the pace, in units
    _first_tasks: set[str] = field(default_factory=set)  # that ran at the first report, and have not reported
    _reported: float | None = None
    _grown: float = 0.0

    def see(self, event: Event, now: float) -> None:
        """Count an event."""
        if self._reported is None and event.kind in ("unit", "progress"):
            self._reported = now
            self._first_tasks = set(self.running)
        before = self._grown_by()
        self._count(event)
        if self._grown_by() > before:
            self._grown = now

    def _count(self, event: Event) -> None:
        if event.kind == "unit":
            self._save(event.task or event.unit)
        elif event.kind == "begin":
            self.running[event.unit] = max(1, event.total)
        elif event.kind == "progress" and event.total:
            units = event.units or self.running.get(event.unit, 1)
            self._parts[event.unit] = units * min(1.0, event.done / event.total)
            # If a task starts again in this session, its earlier steps are this session's, too.
            is_first = event.unit in self._first_tasks
            self._skip(event.unit, self._parts[event.unit] if is_first else units * event.begun / event.total)
            self.note = event.text
            self.steps = (event.done, event.total)
        elif event.kind in ("done", "retry", "failed"):
            self.running.pop(event.unit, None)
            self._parts.pop(event.unit, None)
            self.retried += event.kind == "retry"
            self.failed += event.kind == "failed"

    def _save(self, task: str) -> None:
        self.done += 1
        self._parts[task] = max(0.0, self._parts.get(task, 0.0) - 1)
        if task in self._first_tasks:
            self._skip(task, 1.0)

    def _skip(self, task: str, units: float) -> None:
        self._before.setdefault(task, units)
        self._first_tasks.discard(task)

    def left_s(self, now: float) -> float | None:
        """Return the seconds left at the pace of this session, or None if nothing is known."""
        pace = self._pace(now)
        if pace is None:
            return None
        # Between two steps the time left falls.
        since = now - self._grown
        left = (self.total - self.done - sum(self._parts.values())) / pace
        return max(0.0, left if self._is_overdue(now) else left - since)

    def _pace(self, now: float) -> float | None:
        """Return the units per second since the first report, or None if nothing is known."""
        if self._reported is None or now - self._reported < SURE_S or self._grown_by() <= 0:
            return None
        return self._grown_by() / ((now if self._is_overdue(now) else self._grown) - self._reported)

    def _is_overdue(self, now: float) -> bool:
        """Whether a step takes longer than all before it, as if another program has taken the processor."""
        return self._reported is not None and now - self._grown > self._grown - self._reported

    def _grown_by(self) -> float:
        return self.done - self.first + sum(self._parts.values()) - sum(self._before.values())

    @property
    def was_there(self) -> bool:
        """Whether all of its units were in the store before this session."""
        return self.first == self.total

    def outcome(self, now: float) -> str:
        """Return how the stage ended: found, done with its duration, or cut short."""
        seconds = clock((now if self.ended is None else self.ended) - self.begun)
        if self.done < self.total:
            return f"stopped after {seconds}"
        if self.was_there:
            return "found in the store"
        return f"done in {seconds}" + (f", {self.first} found in the store" if self.first else "")

    def faults(self) -> list[str]:
        """Return how many tasks were retried and have failed, without those counts that are 0."""
        return [f"{count} {what}" for count, what in ((self.retried, "retried"), (self.failed, "failed")) if count]

    def describe(self, now: float) -> str:
        """Return what runs, what went wrong, the pace, and the time left."""
        words = [f"{len(self.running)} running"] if self.running else []
        words += self.faults()
        left, rate = self.left_s(now), self._pace(now)
        if left is not None and rate is not None and self.ended is None:
            if self.done > self.first:
                words.append(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min")
            words.append(f"{clock(left)} left")
        return ", ".join(words)


class RunProgress:
    """All stages and workers of a run; `clock` returns seconds that never go back."""

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
            self.stages[event.stage].done = event.done
            self.stages[event.stage].ended = self.clock()
        elif event.stage in self.stages:
            self.stages[event.stage].see(event, self.clock())

    def describe_workers(self) -> str:
        """Return the workers by node: ``5 workers: 3 on 10.0.0.7, 2 on 10.0.0.8``."""
        total = sum(self.workers.values())
        nodes = sorted(self.workers.items(), key=lambda item: (-item[1], item[0]))
        by_node = ", ".join(f"{count} on {node}" for node, count in nodes[:8])
        more = f" and {len(nodes) - 8} more nodes" if len(nodes) > 8 else ""
        return f"{total} worker{'s' * (total != 1)}" + (f": {by_node}{more}" if nodes else "")


def clock(seconds: float) -> str:
    """Return a duration in words, such as ``4 min 30 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
