"""The units of stage "barycenter": a class's features become atoms."""

from __future__ import annotations

from dataclasses import dataclass

from wmdd.config.distill import DistillConfig
from wmdd.config.methods import SELECTING
from wmdd.stages.base import Groups, Stage
from wmdd.stages.planning import Planner

TILES = "tiles-"


@dataclass(frozen=True)
class Params:
    """Of a class, for which `ipc` atoms are to be found."""

    class_id: int
    ipc: int


def plan(planner: Planner) -> Groups:
    """Plan a unit for each class whose images are optimised, or selected by its atoms."""
    if not planner.uses("barycenter"):
        return []
    return [
        [
            planner.class_unit(
                BARYCENTER, class_id, Params(class_id, atoms), {"statistics": unit.ref}, prefix=prefix, images=False
            )
        ]
        for prefix, atoms in _sizes(planner.config, planner.selections).items()
        for class_id, unit in enumerate(planner.units("statistics"))
    ]


def _sizes(config: DistillConfig, selections: list[str]) -> dict[str, int]:
    """Return the number of a class's atoms, by the prefix of the units' names.

    If images hold tiles, recovery has an atom for each of them, and the selection of the nearest real images one for
    each image: its units, and so their keys, are those of a run without tiles.
    """
    sizes = {"": config.ipc} if "nearest" in selections else {}
    if config.method not in SELECTING:
        sizes["" if config.tiles == 1 else TILES] = config.atoms
    return sizes


BARYCENTER = Stage(
    "barycenter",
    1,
    "barycenter",
    "wmdd.method.artifacts:Barycenter",
    Params,
    plan,
    "wmdd.stages.barycenter:barycenter",
    gpu=False,
)
