"""What a person sees while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from wmdd.events import Event

PLAIN_EVERY_S = 5.0


class Rate:
    """How fast a stage goes, from units finished in this session and the parts of those under way."""

    def __init__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self._first, self._begun = done, time.monotonic()
        self._parts: dict[str, float] = {}

    def see(self, event: Event) -> None:
        """Count an event."""
        if event.kind == "unit":
            self.done += 1
            self._parts.pop(event.unit, None)
        elif event.kind == "progress" and event.total:
            self._parts[event.unit] = min(1.0, event.done / event.total)

    def describe(self) -> str:
        """Say rate and time left, as far as they are known."""
        elapsed = time.monotonic() - self._begun
        # A group's progress counts as one unit's until its units are saved: the estimate errs on the long side.
        finished = self.done - self._first + sum(self._parts.values())
        if finished <= 0 or elapsed < 1:
            return ""
        left = elapsed * (self.total - self._first - finished) / finished
        rate = (self.done - self._first) / elapsed
        pace = f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min" if rate else ""
        return ", ".join(part for part in (pace, f"{clock(max(0, left))} left") if part)


class ConsoleListener:
    """Shows events: a live bar per stage on a terminal, plain lines otherwise.

    Use as a context manager.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        columns = (TextColumn("{task.description:<11}"), BarColumn(20), TextColumn("{task.completed:g}/{task.total:g}"))
        self._progress = Progress(
            *columns, TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=console, disable=not self._live
        )
        self._bars: dict[str, TaskID] = {}
        self._rate = Rate(0, 0)
        self._begun, self._told = time.monotonic(), 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.kind == "stage":
            self._rate = Rate(event.done, event.total)
            self._begin(event)
        elif event.kind in ("unit", "progress"):
            self._rate.see(event)
            self._step(event)
        elif event.kind == "end":
            self._end(event)
        else:
            self._console.print(f"{event.stage}: {event.text}", style="yellow", soft_wrap=True)

    def _begin(self, event: Event) -> None:
        self._begun, self._told = time.monotonic(), 0.0
        if self._live:
            self._bars[event.stage] = self._progress.add_task(
                event.stage, total=max(1, event.total), completed=event.done, note=""
            )

    def _step(self, event: Event) -> None:
        pace = self._rate.describe()
        text = " ".join(part for part in (pace, event.text) if part)
        if self._live:
            self._progress.update(self._bars[event.stage], completed=self._rate.done, note=text)
        elif time.monotonic() - self._told > PLAIN_EVERY_S:
            self._told = time.monotonic()
            steps = f" (step {event.done}/{event.total})" if event.kind == "progress" else ""
            self._console.print(
                f"{event.stage:<11}{self._rate.done}/{self._rate.total}{steps} {text}", soft_wrap=True, highlight=False
            )

    def _end(self, event: Event) -> None:
        seconds = time.monotonic() - self._begun
        if self._live:
            bar = self._bars[event.stage]
            self._progress.update(bar, total=max(1, event.total), completed=max(1, event.total), note="done")
            self._progress.stop_task(bar)
        else:
            line = f"{event.stage:<11}{event.done}/{event.total} done in {clock(seconds)}"
            self._console.print(line, soft_wrap=True, highlight=False)


def clock(seconds: float) -> str:
    """Write a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def both(*listeners: Callable[[Event], None]) -> Callable[[Event], None]:
    """Tell several listeners."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
