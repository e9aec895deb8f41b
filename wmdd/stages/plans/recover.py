"""The units of stage "recover": a group of classes becomes images, optimised as one tensor batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wmdd.config.methods import SELECTING
from wmdd.stages.base import Groups, Stage
from wmdd.stages.planning import Planner, images_together


@dataclass(frozen=True)
class Params:
    """Of one class; but for the class, those of a task are equal.

    Args:
        steps: number of steps to run, if not all.
        images_at_once: number of images that are optimised together, if not all.
    """

    class_id: int
    steps: int | None = None
    images_at_once: int | None = None


def plan(planner: Planner) -> Groups:
    """Plan the classes whose images are optimised, in groups that share a tensor batch."""
    config = planner.config
    if config.method in SELECTING:
        return []
    statistics, barycenters = planner.units("statistics"), planner.barycenters(config.atoms)
    steps = planner.level.steps(config)
    groups: Groups = []
    for group in planner.groups():
        at_once = images_together(config, len(group))
        groups.append([])
        for class_id in group:
            inputs = {"statistics": statistics[class_id].ref, "barycenter": barycenters[class_id]}
            params = Params(class_id, images_at_once=at_once)
            unit = planner.class_unit(RECOVER, class_id, params, {"teacher": planner.teacher, **inputs})
            if steps < config.recover.iterations:
                # More steps go on from the snapshot that these leave, which has the name of the whole optimisation.
                fewer = planner.class_unit(RECOVER, class_id, replace(params, steps=steps), unit.inputs)
                unit = replace(fewer, whole=unit.ref)
            groups[-1].append(unit)
    return groups


RECOVER = Stage(
    "recover",
    1,
    "recover",
    "wmdd.method.artifacts:DistilledClass",
    Params,
    plan,
    "wmdd.stages.recover:recover",
    joint=True,
    snapshots=True,
)
