"""What a person sees while a run goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from wmdd.config.callers import in_callers_words
from wmdd.engine.events import Event
from wmdd.engine.progress import RunProgress, StageProgress, clock
from wmdd.process.terminal import Terminal
from wmdd.text import printable

PLAIN_EVERY_S = 5.0


class ConsoleListener:
    """Shows events. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run = RunProgress()
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=4, transient=False)
        self._told, self._workers_told = 0.0, ""
        # A notebook shows a table that changes by means of ipywidgets, and lines without.
        self._is_live = console.is_interactive or (console.is_jupyter and find_spec("ipywidgets") is not None)

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live and self._console.is_jupyter:
            self._live.refresh()  # rich shows the last state on terminals alone
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._run(event)
        if event.kind in ("retry", "failed", "note") and event.text:
            name = f"{event.stage}: " if event.stage else ""
            self._print(f"{name}{in_callers_words(event.text)}", "red" if event.kind == "failed" else "yellow")
        elif not self._is_live:
            self._plain(event)

    def _plain(self, event: Event) -> None:
        if event.kind == "end":
            stage = self._run.stages[event.stage]
            ended = stage.outcome(self._run.clock())
            words = [ended, *(f"{n} {what}" for n, what in ((stage.retried, "retried"), (stage.failed, "failed")) if n)]
            self._print(f"{event.stage:<11}{event.done}/{event.total} {', '.join(words)}")
        elif event.kind == "workers":
            self._told = 0.0  # who is there is told with the next line
        elif event.kind in ("unit", "progress") and time.monotonic() - self._told > PLAIN_EVERY_S:
            self._told = time.monotonic()
            workers = self._run.describe_workers() if self._run.workers else ""
            if workers != self._workers_told:
                self._workers_told = workers
                self._print(workers)
            for name, stage in self._run.stages.items():
                if stage.ended is None:
                    self._print(_line(name, stage, self._run.clock()))

    def _print(self, text: str, style: str | None = None) -> None:
        shown = printable(text)
        self._console.print(shown, style=style, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def _table(self) -> Table:
        now = self._run.clock()
        table = Table.grid(padding=(0, 1))
        for name, stage in self._run.stages.items():
            over = stage.ended is not None
            until = stage.ended if stage.ended is not None else now
            bar = ProgressBar(max(1, stage.total), stage.done if stage.total else 1, width=20)
            steps = f"step {stage.steps[0]}/{stage.steps[1]}" if stage.running and stage.steps[1] else ""
            note = ", ".join(part for part in (stage.describe(now), steps, stage.note if stage.running else "") if part)
            found = over and stage.was_there
            ended = "found in the store" if found else "done" if stage.done == stage.total else "stopped"
            state = note if not over else note or ended
            cells = (name, bar, f"{stage.done}/{stage.total}", "" if found else clock(until - stage.begun))
            table.add_row(*cells, Text(printable(state), overflow="ellipsis", no_wrap=True))
        if self._run.workers:
            table.add_row(
                "", "", "", "", Text(printable(self._run.describe_workers()), style="dim", overflow="ellipsis")
            )
        return table


def _line(name: str, stage: StageProgress, now: float) -> str:
    steps = f" (step {stage.steps[0]}/{stage.steps[1]})" if stage.running and stage.steps[1] else ""
    text = ", ".join(part for part in (stage.describe(now), stage.note if stage.running else "") if part)
    return f"{name:<11}{stage.done}/{stage.total}{steps} {text}"


def both(*listeners: Callable[[Event], None]) -> Callable[[Event], None]:
    """Tell several listeners."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


def show_index(console: Console) -> Callable[[int, int], None]:
    """Return a function that shows how far the index of the images is."""
    shown_at = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown_at
        text = f"indexing   {done}/{total} images"
        if console.is_terminal:
            console.print(text, end="\r", highlight=False)
        elif time.monotonic() - shown_at > PLAIN_EVERY_S:
            shown_at = time.monotonic()
            console.print(text, soft_wrap=True, highlight=False)

    return show


@contextlib.contextmanager
def progress_view(
    progress: bool | None, listener: Callable[[Event], None] | None, status: Callable[[int, int], None] | None
) -> Iterator[tuple[Callable[[Event], None], Callable[[int, int], None]]]:
    """Yield what is told of events and of the index, for a caller from Python.

    Args:
        progress: whether to show them; None: on a terminal and in a notebook, unless the caller listens.
        listener, status: the caller's own, told in any case.
    """
    console = Terminal()
    if progress is None:
        progress = listener is None and (console.is_interactive or console.is_jupyter)
    told, counted = listener or (lambda event: None), status or (lambda done, total: None)
    if not progress:
        yield told, counted
        return
    with ConsoleListener(console) as view:
        yield both(view, told), counted if status else show_index(console)
