"""What single options of commands hold, refused in the words that a configuration's options are refused in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import click
from pydantic import Field

from wmdd.config.values import read_as
from wmdd.errors import ConfigError
from wmdd.text import unknown

T = TypeVar("T")
OneOrMore = Annotated[tuple[T, ...], Field(min_length=1)]


def shown(value: str) -> str:
    """Return a value as it was typed, in quotes where it would not be seen."""
    return value if value and value == value.strip() else repr(value)


def name_of(param: click.Parameter | None) -> str:
    """Return a parameter's name as the user writes it, such as ``--run`` or ``RUN``."""
    if isinstance(param, click.Option):
        return param.opts[0]
    return param.make_metavar(click.Context(click.Command("wmdd"))) if param else "value"


class _Value:
    """A value that is read as an option of a configuration is."""

    annotation: Any

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; raise a `ConfigError` in one line with option, value and what is allowed."""
        try:
            return read_as(self.annotation, value)
        except ValueError as exc:
            raise ConfigError(f"{name_of(param)} {shown(str(value))}: {exc}") from exc


class Value(_Value, click.types.StringParamType):
    """A value of a type, such as ``tuple[int, ...]`` for numbers with commas between them."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation


class WholeFrom(_Value, click.IntRange):
    """A whole number within bounds."""

    def __init__(self, min: int, max: int | None = None) -> None:
        super().__init__(min, max)
        self.annotation = Annotated[int, Field(ge=min, le=max)]


class OneOf(click.Choice[str]):
    """One of a few names.

    Args:
        noun: what the names are of; default: the last word of the option.
    """

    def __init__(self, names: Iterable[str], noun: str = "") -> None:
        super().__init__(list(names))
        self._noun = noun

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name; raise a `ConfigError` in one line with option, value and the names."""
        if value not in self.choices:
            raise ConfigError(unknown(name_of(param), shown(value), self.choices, self._noun))
        return value
