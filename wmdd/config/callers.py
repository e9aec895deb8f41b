"""Messages name options as the caller wrote them: flags on the command line, keyword arguments from Python."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from wmdd.config.values import NOT_TEXT, read_as
from wmdd.errors import ConfigError, StageError, WmddError

P = ParamSpec("P")
R = TypeVar("R")

_on_command_line: ContextVar[bool] = ContextVar("on_command_line", default=False)
# A whole command; or a flag, with the word before it that asks for a value, or the blank before its value.
_COMMAND = r"\bwmdd [a-z](?:(?!: )[^;(])*"
_FLAG = r"(another |with )?(?<![\w./=-])--([a-z]\w*(?:\.\w+)?)(?![\w.-]*-)( (?=\(\)|[^\s,;:()&]))?"
_COMMAND_OR_FLAG = re.compile(f"{_COMMAND}|{_FLAG}")
_ARGUMENTS = {"address": "ray.address", "num_students": "evaluate.num_students"}


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Leave messages as they are, because what runs here was typed as a command."""
    token = _on_command_line.set(True)
    try:
        yield
    finally:
        _on_command_line.reset(token)


def in_callers_words(text: str, names: dict[str, str] | None = None) -> str:
    """Return a message for the caller: from Python, ``--until foo`` is ``until=foo``, or another name by `names`.

    A whole command in the message, such as ``wmdd distill --run URL``, stays one.
    """
    if _on_command_line.get():
        return text
    known = _ARGUMENTS | (names or {})

    def argument(match: re.Match[str]) -> str:
        before, flag, blank = match.groups()
        sign = "=" if before or blank else ""
        return f"{before or ''}{known.get(flag, flag)}{sign}" if flag else match[0]

    if "RUN" in known:
        text = re.sub(r"^RUN (?=\S)", f"{known['RUN']}=", text)
    return _COMMAND_OR_FLAG.sub(argument, text)


def names_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for functions that Python and the command line call: their errors are in the caller's words.

    Arguments are checked as options are: a text may be a path of pathlib, and is not empty; a list may be given as the
    text that the command line takes. For `names` see `in_callers_words`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        types = {name: str(annotation) for name, annotation in function.__annotations__.items() if name != "return"}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given: Any = [_as_meant(name, types[name], value) for name, value in zip(types, args, strict=False)]
                named: Any = {name: _as_meant(name, types.get(name, ""), value) for name, value in kwargs.items()}
                given += args[len(given) :]  # more than it takes: Python says so
                return function(*given, **named)
            except StageError as exc:
                exc.cause = in_callers_words(exc.cause, names)
                raise
            except WmddError as exc:
                exc.args = tuple(in_callers_words(part, names) if isinstance(part, str) else part for part in exc.args)
                raise

        return call

    return decorate


_READ: dict[str, Any] = {
    "float": float,
    "Sequence[str]": tuple[str, ...],
    "Sequence[int]": tuple[int, ...],
    "Sequence[float]": tuple[float, ...],
}


def _as_meant(name: str, annotation: str, value: Any) -> Any:
    """Return the value of an argument, as its annotation has it; raise a `ConfigError` for one of another type."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    remedy = ", or leave it out" if annotation == "str | None" else ""
    if annotation in ("str", "str | None") and not (value is None and remedy):
        if not isinstance(value, str):
            raise ConfigError(f"{name}={value!r}: input should be {NOT_TEXT}{remedy}")
        if not value.strip():
            raise ConfigError(f"{name}={value!r}: is empty; give a name, path or URL{remedy}")
    if annotation.startswith(("Callable", "Listener")):
        if value is None:
            return value if annotation.endswith("| None") else lambda *events: None
        if not callable(value):
            raise ConfigError(f"{name}={value!r}: is of type {type(value).__name__}; give a function, or leave it out")
    if annotation not in _READ:
        return value
    try:
        return read_as(_READ[annotation], value)
    except ValueError as exc:
        raise ConfigError(f"{name}={value!r}: {exc}") from exc
