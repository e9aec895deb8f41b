"""What a search is: its options, and the checks of them that need no Ray."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tuning.space import FORMS, Domain, parse_space
from wmdd.config.base import Section
from wmdd.config.distill import DistillConfig, override
from wmdd.config.methods import SELECTING
from wmdd.errors import ConfigError

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class TuneConfig(Section):
    """A search over options of one recipe."""

    samples: Annotated[int, Field(ge=1)] = Field(32, description="settings to try; the recipe's is the first")
    space: tuple[str, ...] = Field(
        ("recover.bn_weight=loguniform:0.001:1000",),
        description=f"domain of each field: {FORMS}",
        json_schema_extra={"each": "FIELD=DOMAIN"},
    )
    searcher: Literal["tpe", "random"] = Field("tpe", description="what proposes settings: Optuna's TPE, or chance")
    seed: int = Field(0, description="of the searcher")
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="share of each class's training images that students are scored on"
    )
    num_students: Annotated[int, Field(ge=2)] = Field(2, description="students whose mean top-1 is a setting's score")
    levels: Annotated[tuple[tuple[Share, Share, Share], ...], Field(min_length=1)] = Field(
        ((1.0, 0.25, 0.25), (1.0, 0.5, 0.5), (1.0, 1.0, 1.0)),
        description="shares of a whole run at each level of a trial, the last 1:1:1",
        json_schema_extra={"each": "CLASSES:STEPS:EPOCHS"},
    )
    keep: Annotated[float, Field(gt=1.0)] = Field(2.0, description="one in this many trials goes on to the next level")
    stop_early: bool = Field(True, description="stop trials that do worse than others at their level (ASHA)")
    concurrent: Annotated[int, Field(ge=0)] = Field(0, description="trials at a time (0: as many as fit)")
    retries: Annotated[int, Field(ge=0)] = Field(2, description="further tries of a trial whose worker dies")
    final: bool = Field(True, description="at the end, distil all images with the winner and with the recipe's setting")

    @field_validator("levels", mode="before")
    @classmethod
    def _read(cls, levels: Any) -> Any:
        """Take levels as texts, such as ``1:0.5:0.5``, several of them in one text too."""
        items = (levels,) if isinstance(levels, str) else levels
        if not isinstance(items, list | tuple):
            return levels
        shares = [part for item in items for part in (item.split() if isinstance(item, str) else (item,))]
        shares = [tuple(part.split(":")) if isinstance(part, str) else part for part in shares]
        for part in shares:
            if not isinstance(part, list | tuple) or len(part) != 3:
                raise ValueError("a level is three shares, CLASSES:STEPS:EPOCHS, such as 1:0.5:0.5")
        return tuple(shares)

    @field_validator("levels")
    @classmethod
    def _rise_to_the_whole(cls, levels: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        if levels[-1] != (1.0, 1.0, 1.0):
            raise ValueError("the last level must be 1:1:1, the whole run")
        for few, many in itertools.pairwise(levels):
            if any(low > high for low, high in zip(few, many, strict=True)):
                raise ValueError(f"shares may not fall from {few} to {many}")
        return levels


def check_space(config: DistillConfig, tune: TuneConfig) -> dict[str, Domain]:
    """Return the search space, after a check that the recipe takes every edge of it.

    Raises:
        ConfigError: naming the field.
    """
    space = parse_space(tune.space)
    if config.method in SELECTING:
        raise ConfigError(f"--method {config.method}: chooses real images and optimises none; search another method")
    for field, domain in space.items():
        for value in domain.values:
            try:
                override(config, {field: value})
            except ConfigError as exc:
                raise ConfigError(f"--tune.space {field}={domain}: {exc}") from exc
    return space


def search_config(config: DistillConfig, tune: TuneConfig) -> DistillConfig:
    """Return what the trials share: training images without the search split, and students scored on that split."""
    return override(
        config.settled(),  # no field that is searched decides the tiles, and with them the barycenters
        {
            "data.holdout": tune.holdout,
            "evaluate.num_students": tune.num_students,
            "evaluate.baselines": (),
            "evaluate.worth": (),
            "evaluate.full_data": False,
            "evaluate.val_every": config.relabel.epochs,  # the last epoch is the score; others would only cost time
        },
    )
