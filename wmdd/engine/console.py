"""What the user sees while a run goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from wmdd.config.callers import in_callers_words
from wmdd.engine.events import Event, Listener, both
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
        self._printed_at = 0.0
        self._printed_workers = ""
        # Without ipywidgets a notebook cannot show a table that changes.
        self._is_live = console.is_interactive or (console.is_jupyter and find_spec("ipywidgets") is not None)

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_live and self._console.is_jupyter:
            self._live.refresh()  # rich shows the last state on terminals only
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
            words = ", ".join([stage.outcome(self._run.clock()), *stage.faults()])
            self._print(f"{event.stage:<11}{event.done}/{event.total} {words}")
        elif event.kind == "workers":
            self._printed_at = 0.0  # the next line says which workers are there
        elif event.kind in ("unit", "progress") and time.monotonic() - self._printed_at > PLAIN_EVERY_S:
            self._printed_at = time.monotonic()
            workers = self._run.describe_workers() if self._run.workers else ""
            if workers != self._printed_workers:
                self._printed_workers = workers
                self._print(workers)
            for name, stage in self._run.stages.items():
                if stage.ended is None:
                    step = f" ({_step(stage)})" if _step(stage) else ""
                    state = filter(None, (stage.describe(self._run.clock()), stage.note if stage.running else ""))
                    self._print(f"{name:<11}{stage.done}/{stage.total}{step} {', '.join(state)}")

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(printable(text), style=style, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def _table(self) -> Table:
        now = self._run.clock()
        table = Table.grid(padding=(0, 1))
        for name, stage in self._run.stages.items():
            has_ended = stage.ended is not None
            was_there = has_ended and stage.was_there
            bar = ProgressBar(max(1, stage.total), stage.done if stage.total else 1, width=20)
            state = ", ".join(filter(None, (stage.describe(now), _step(stage), stage.note if stage.running else "")))
            if has_ended and not state:
                state = "found in the store" if was_there else "done" if stage.done == stage.total else "stopped"
            seconds = (now if stage.ended is None else stage.ended) - stage.begun
            cells = (name, bar, f"{stage.done}/{stage.total}", "" if was_there else clock(seconds))
            table.add_row(*cells, Text(printable(state), overflow="ellipsis", no_wrap=True))
        if self._run.workers:
            workers = printable(self._run.describe_workers())
            table.add_row("", "", "", "", Text(workers, style="dim", overflow="ellipsis"))
        return table


def _step(stage: StageProgress) -> str:
    return f"step {stage.steps[0]}/{stage.steps[1]}" if stage.running and stage.steps[1] else ""


def show_index(console: Console) -> Callable[[int, int], None]:
    """Return a function that shows how many images are indexed."""
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
    progress: bool | None, listener: Listener | None, status: Callable[[int, int], None] | None
) -> Iterator[tuple[Listener, Callable[[int, int], None]]]:
    """Yield the listener and the status of a call from Python.

    Args:
        progress: whether to show them; None: on a terminal and in a notebook, unless there is a listener.
        listener, status: of the caller, called in any case.
    """
    console = Terminal()
    if progress is None:
        progress = listener is None and (console.is_interactive or console.is_jupyter)
    listener = listener or (lambda event: None)
    if not progress:
        yield listener, status or (lambda done, total: None)
        return
    with ConsoleListener(console) as view:
        yield both(view, listener), status or show_index(console)
