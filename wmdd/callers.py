"""Messages name options as the caller wrote them: flags on the command line, keyword arguments from Python."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from wmdd.errors import StageError, WmddError

P = ParamSpec("P")
R = TypeVar("R")

_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)
# A flag, and a blank if its value follows.
_FLAG = re.compile(r"(?<![\w./=-])--([a-z]\w*(?:\.\w+)?)(?![\w.-]*-)( (?=\(\)|[^\s,;:()&]))?")
_ARGUMENTS = {"address": "ray.address", "ipc": "barycenter.ipc", "seeds": "evaluate.seeds"}


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Leave messages as they are: what runs here was typed as a command."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def in_callers_words(text: str, names: dict[str, str] | None = None) -> str:
    """Return a message for the caller: from Python, ``--until foo`` is ``until=foo``.

    A whole command in the message, such as ``wmdd distill --run URL``, stays one.

    Args:
        names: keyword arguments whose names differ from those of the flags.
    """
    if _on_command_line.get():
        return text
    known = _ARGUMENTS | (names or {})

    def argument(flag: re.Match[str]) -> str:
        clause = re.split(r"[;(]|: ", flag.string[: flag.start()])[-1]
        if re.search(r"\bwmdd [a-z]", clause):
            return flag[0]
        name = known.get(flag[1], flag[1])
        return f"{name}=" if flag[2] or clause.endswith(("another ", "with ")) else name

    if "RUN" in known:
        text = re.sub(r"^RUN (?=\S)", f"{known['RUN']}=", text)
    return _FLAG.sub(argument, text)


def names_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for functions that Python and the command line call: their errors are in the caller's words.

    Paths of pathlib are taken as text.

    Args:
        names: as for `in_callers_words`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*map(_text, args), **{name: _text(value) for name, value in kwargs.items()})
            except StageError as exc:
                exc.cause = in_callers_words(exc.cause, names)
                raise
            except WmddError as exc:
                exc.args = tuple(in_callers_words(part, names) if isinstance(part, str) else part for part in exc.args)
                raise

        return call

    return decorate


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
