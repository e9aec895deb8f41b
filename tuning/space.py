"""The search space: which fields are searched, and the domains of their values."""

from __future__ import annotations

import contextlib
import math
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from wmdd.config.distill import DistillConfig, field_type
from wmdd.errors import ConfigError

# Trials share their teacher, statistics and barycenters; how they are computed decides nothing.
SHARED = ("data", "pretrain", "statistics", "barycenter", "runtime", "ray", "seed", "recipe")
FORMS = "loguniform:LOW:HIGH, uniform:LOW:HIGH, randint:LOW:HIGH or choice:A,B,..."
Kind = Literal["loguniform", "uniform", "randint", "choice"]


@dataclass(frozen=True)
class Domain:
    """The values that a field may take.

    Args:
        values: the lowest and the highest (both may occur), or all of a choice.
    """

    kind: Kind
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.kind}:{(',' if self.kind == 'choice' else ':').join(map(str, self.values))}"

    def holds(self, value: Any) -> bool:
        """Whether a value could be proposed."""
        if self.kind == "choice":
            return value in self.values
        return isinstance(value, (int, float)) and self.values[0] <= value <= self.values[1]


def parse_space(words: Iterable[str]) -> dict[str, Domain]:
    """Read ``FIELD=KIND:VALUES`` words.

    Raises:
        ConfigError: naming the word and the forms.
    """
    space: dict[str, Domain] = {}
    for word in words:
        field, equals, text = word.partition("=")
        kind, colon, values = text.partition(":")
        if not equals or not colon:
            raise ConfigError(f"--tune.space {word}: give FIELD={FORMS}")
        _check_field(field)
        if field in space:
            raise ConfigError(f"--tune.space {word}: {field} is in the space twice")
        space[field] = _domain(word, field, kind, values)
    return space


def _check_field(field: str) -> None:
    section, _, name = field.partition(".")
    if section in SHARED:
        raise ConfigError(
            f"--tune.space {field}: trials share what {section} decides; search fields of recover, relabel or evaluate"
        )
    if field == "recover.tiles":
        raise ConfigError(f"--tune.space {field}: decides the barycenters, which trials share; compare whole runs")
    if not name or field_type(field) is None:
        near = DistillConfig.near(field)
        raise ConfigError(f"--tune.space {field}: no such field; wmdd distill RECIPE --help-all lists them{near}")


def _read(item: str, field: str) -> Any:
    """Read a value of a field: YAML would take 1e3 for a word, and the none of a choice of words is one of them."""
    if item in typing.get_args(field_type(field)):
        return item
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(item)
    return {"true": True, "false": False, "none": None}.get(item, item)


def _domain(word: str, field: str, kind: str, text: str) -> Domain:
    if kind == "choice":
        values = tuple(_read(item, field) for item in text.split(","))
        if len(set(map(str, values))) < len(values) or "" in text.split(","):
            raise ConfigError(f"--tune.space {word}: a choice needs different values, choice:A,B")
        return Domain("choice", values)
    if kind not in ("loguniform", "uniform", "randint"):
        raise ConfigError(f"--tune.space {word}: {kind} is no domain; give FIELD={FORMS}")
    try:
        low, high = (int(item) if kind == "randint" else float(item) for item in text.split(":"))
    except ValueError as exc:
        raise ConfigError(f"--tune.space {word}: give two numbers, {kind}:LOW:HIGH") from exc
    if not (math.isfinite(low) and math.isfinite(high) and low < high and (kind != "loguniform" or low > 0)):
        above = " above 0" if kind == "loguniform" else ""
        raise ConfigError(f"--tune.space {word}: LOW must be smaller than HIGH, both finite{above}")
    return Domain(kind, (low, high))  # type: ignore[arg-type]
