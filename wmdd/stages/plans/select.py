"""The units of stage "select": real images, the baselines that every distilled set must beat."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from wmdd.data.geometry import Geometry
from wmdd.stages.base import Groups, Inputs, PlannedUnit, Stage
from wmdd.stages.planning import Planner

IMAGES_PER_TASK = 1000  # some seconds of reading


@dataclass(frozen=True)
class Params:
    """Of one class.

    Args:
        ipc: images to choose.
        draw: number of the random draw; None for herding.
    """

    class_id: int
    ipc: int
    geometry: Geometry
    draw: int | None = None

    @property
    def images(self) -> str:
        """The name of the set of images that the class belongs to."""
        return "distilled" if self.draw is None else f"random-{self.draw}"


def plan(planner: Planner) -> Groups:
    """Plan the images that herding chooses, if it is the method, and one random draw for each student's seed."""
    config, class_ids, groups = planner.config, planner.class_ids, []
    ipc, geometry = config.ipc, planner.geometry
    if config.method == "herding":
        statistics = planner.units("statistics")
        groups.append([_unit(planner, Params(c, ipc, geometry), {"statistics": statistics[c].ref}) for c in class_ids])
    draws = config.evaluate.num_students if config.evaluate.random_real or config.method == "random" else 0
    size = max(1, IMAGES_PER_TASK // ipc)
    for draw, start in itertools.product(range(draws), range(0, len(class_ids), size)):
        some = class_ids[start : start + size]
        groups.append([_unit(planner, Params(class_id, ipc, geometry, draw), {}) for class_id in some])
    return groups


def _unit(planner: Planner, params: Params, inputs: Inputs) -> PlannedUnit:
    prefix = "herding-" if params.draw is None else f"{params.images}-"
    return planner.class_unit(SELECT, params.class_id, params, inputs, prefix=prefix)


SELECT = Stage(
    "select", 1, "", "wmdd.method.artifacts:DistilledClass", Params, plan, "wmdd.stages.select:select", gpu=False
)
