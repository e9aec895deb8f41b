"""The units of stage "barycenter": a class's features become ipc atoms."""

from __future__ import annotations

from dataclasses import dataclass

from wmdd.stages.base import Groups, Stage
from wmdd.stages.planning import Planner


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
                BARYCENTER, class_id, Params(class_id, planner.config.ipc), {"statistics": unit.ref}, images=False
            )
        ]
        for class_id, unit in enumerate(planner.units("statistics"))
    ]


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
