"""Standard output and error, whatever terminal, file, pipe or encoding they are."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from wmdd.process.home import expand_home
from wmdd.text import SPELL, printable

NARROWEST, USUAL = 20, 80  # columns


class Terminal(Console):
    """A console that shows text as it is: markup, codes of emoji and control codes in it are no commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})
        if self.width < NARROWEST:  # a terminal of unknown size has COLUMNS=0, which would leave no room for a table
            self.width = USUAL

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text in one line."""
        return super().render_str(printable(text), **options)


def full_path(value: str) -> str:
    """Return the path or URL that an option names, with the home folder in place of ``~``.

    Raises:
        click.BadParameter: if it is empty, as of a shell's variable without a value.
    """
    if not value.strip():
        raise click.BadParameter("it is empty; name a folder or file, or leave it out")
    return expand_home(value)


class LineFormatter(logging.Formatter):
    """Formats log records without control codes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text; a traceback keeps its lines."""
        return printable(super().format(record), keep="\n\t" if record.exc_info else "")


def prepare_streams() -> None:
    """Prepare the standard streams so that no character and no absent stream ends a command."""
    if sys.stdout is None or sys.stderr is None:
        # A descriptor below 3 that is free would go to the first file that is opened, and libraries print there.
        while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=SPELL)
