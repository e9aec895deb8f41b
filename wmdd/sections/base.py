"""What the sections of a configuration share: kinds of values, and the frozen section itself."""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _rises(scale: tuple[float, float]) -> tuple[float, float]:
    if scale[0] > scale[1]:
        raise ValueError(f"the low end must not be above the high end; try {scale[1]},{scale[0]}")
    return scale


Scale = Annotated[tuple[Fraction, Fraction], AfterValidator(_rises)]
SMALL_BELOW_PX = 100  # smaller images keep their size in the first layers
Stem = Literal["auto", "standard", "small", "stride2"]
Subset = Literal["imagenette", "imagewoof", "imagemeow", "imagesquawk", "imagefruit", "imageyellow"]
Augment = Literal[
    "none",
    "randaugment",
    "trivialaugment",
    "augmix",
    "autoaugment-imagenet",
    "autoaugment-cifar10",
    "autoaugment-svhn",
]
Protocol = Literal["wmdd", "sre2l", "cda", "rded", "edc", "cvdd", "fadrm", "hard"]
Method = Literal["wmdd", "wmdd-paper-loss", "sre2l", "cda", "random", "herding"]


_LATER: dict[str, Any] = {"later": True}


def later(default: Any, **facts: Any) -> Any:
    """Declare an option that its section did not have from the first: at its default it is no part of keys.

    So what earlier versions made stays found. Its default must therefore never change.
    """
    return Field(default, json_schema_extra=_LATER, **facts)


def refuse_twice(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a name that is given twice.

    Raises:
        ValueError: names it.
    """
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"names {twice[0]} twice; leave one out")
    return names


class Section(BaseModel):
    """A frozen part of the configuration that knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def for_key(self, exclude: Container[str] = ()) -> dict[str, Any]:
        """Give the plain values that belong to keys of the store."""
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if name not in exclude and not self._is_silent(name)
        }

    def _is_silent(self, name: str) -> bool:
        field = type(self).model_fields[name]
        return field.json_schema_extra == _LATER and getattr(self, name) == field.default
