"""What single options of commands hold, refused in the words that a configuration's options are refused in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn

import click
from pydantic import TypeAdapter, ValidationError

from wmdd.config.values import NOT_A_NUMBER, NOT_WHOLE
from wmdd.errors import ConfigError


def shown(value: str) -> str:
    """Return a value as it was typed, in quotes where it would not be seen."""
    return value if value and value == value.strip() else repr(value)


def usage(error: click.ClickException) -> str:
    """Return what is wrong with a command line: the option or argument, and the remedy."""
    told = " ".join(error.format_message().split())
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{_name(error.param)}: is missing; give one"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{_name(error.param)}: {error.message}"
    if isinstance(error, click.BadOptionUsage) and "requires an argument" in told:
        return f"{error.option_name}: requires an argument; write its value behind it"
    if told.startswith("Got unexpected extra argument"):
        return f"{told.removesuffix('.')}; several values of an option are written a,b"
    return told


def _name(param: click.Parameter) -> str:
    return (
        param.opts[0] if isinstance(param, click.Option) else param.make_metavar(click.Context(click.Command("wmdd")))
    )


def _refuse(value: Any, param: click.Parameter | None, told: str) -> NoReturn:
    name = _name(param) if param else "value"
    raise ConfigError(f"{name} {shown(str(value))}: input should be {told}")


class _Read:
    """A value that is read as an option of a configuration is."""

    kind: ClassVar[type]
    told: ClassVar[str]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value.

        Raises:
            ConfigError: in one line with option, value and what is allowed.
        """
        try:
            return TypeAdapter(self.kind).validate_python(value)
        except ValidationError:
            _refuse(value, param, self.told)


class Whole(_Read, click.types.IntParamType):
    """A whole number."""

    kind, told = int, NOT_WHOLE


class Number(_Read, click.types.FloatParamType):
    """A number."""

    kind, told = float, NOT_A_NUMBER


class WholeFrom(click.IntRange):
    """A whole number within bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Raises:
            ConfigError: in one line with option, value and what is allowed.
        """
        number = Whole().convert(value, param, ctx)
        if self.min is not None and number < self.min:
            _refuse(value, param, f"greater than or equal to {self.min}")
        if self.max is not None and number > self.max:
            _refuse(value, param, f"less than or equal to {self.max}")
        return number


class OneOf(click.Choice[str]):
    """One of a few names."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(list(names))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name.

        Raises:
            ConfigError: in one line with option, value and the names.
        """
        *others, last = (repr(name) for name in self.choices)
        return value if value in self.choices else _refuse(value, param, f"{', '.join(others)} or {last}")
