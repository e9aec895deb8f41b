"""Errors of commands: the one line on standard error that ends a command, and its exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from wmdd.cli.released_flags import answer
from wmdd.cli.types import name_of
from wmdd.config.callers import command_line
from wmdd.errors import ConfigError, DataError, WmddError
from wmdd.process import interruptions
from wmdd.text import one_line, printable

_KEPT = ". What was finished is kept: the same command goes on from there"
_AFTER = dict.fromkeys(("distill", "plan", "tune", "compare", "rank"), _KEPT) | {  # an interruption
    "cluster": ". What it had started has ended: run the same command again",
    "export": ". The same command writes what is missing",
    "report": ". The same command writes all files again",
    "submit": "; wmdd jobs lists what was submitted",
}


def exit_status(name: str, run: Callable[[], Any]) -> int:
    """Run a command, and return its exit status.

    That is 0, 2 after bad input, 1 after a failed run, 128 plus the signal after an interruption.
    """
    after = _AFTER.get(name, "")
    kept = after if after == _KEPT else ""
    interrupted = f"wmdd: interrupted{after}"
    interruptions.announce(interrupted)
    try:
        os.getcwd()
    except FileNotFoundError:  # torch's libraries end the process there
        return _write("the current folder was removed: go to another one (cd ..), and run the command again", 2)
    try:
        with interruptions.before_errors(), command_line():
            run()
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message())
        return 2
    except click.ClickException as exc:
        return _write(_usage(exc), 2)
    except (ConfigError, DataError) as exc:
        return _write(str(exc), 2)
    except WmddError as exc:
        return _write(f"{exc}{kept}", 1)
    except (KeyboardInterrupt, click.Abort):
        interruptions.tell(interrupted)
        return interruptions.status()
    except OSError as exc:
        # Stores explain their own failures; a pipe whose reader has gone is click's and rich's.
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return _write(f"standard output cannot be written ({exc.strerror}){kept}", 1)
    return 0


@contextlib.contextmanager
def needs_extra(extra: str, packages: str) -> Iterator[None]:
    """Raise a `WmddError` that names an extra of wmdd if the block imports what is not installed."""
    try:
        yield
    except ImportError as exc:
        raise WmddError(f"{packages} is not installed ({exc}); pip install 'wmdd[{extra}]'") from exc


def _write(message: str, status: int) -> int:
    click.echo(f"wmdd: {printable(message)}", file=sys.stderr)  # with err=True click may choose another encoding
    return status


def _usage(error: click.ClickException) -> str:
    """Return what is wrong with a command line: the option or argument, the remedy, and the help to read."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "wmdd"
    has_more = any("--help-all" in param.opts for param in context.command.params) if context else False
    return f"{answer(error) or _mistake(error)} ({path} {'--help-all' if has_more else '--help'} lists all options)"


def _mistake(error: click.ClickException) -> str:
    text = one_line(error.format_message())
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{name_of(error.param)}: is missing; give one"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{name_of(error.param)}: {error.message}"
    if isinstance(error, click.BadOptionUsage) and "requires an argument" in text:
        return f"{error.option_name}: requires an argument; write its value behind it"
    if text.startswith("Got unexpected extra argument"):
        return f"{text.removesuffix('.')}; several values of an option are written a,b"
    return text
