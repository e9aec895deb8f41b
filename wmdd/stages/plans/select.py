"""The units of stage "select": real images, the baselines that every distilled set must beat."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from wmdd.config.methods import SELECTING, made_set
from wmdd.data.geometry import Geometry
from wmdd.stages.base import Groups, Inputs, PlannedUnit, Stage
from wmdd.stages.planning import UNKEYED, Planner

IMAGES_PER_TASK = 1000  # some seconds of reading


@dataclass(frozen=True)
class Params:
    """Of one class.

    Args:
        ipc: images to choose.
        draw: number of the random draw; None for another rule.
        rule: how the images are chosen, a key of `SELECTING`; the key has it in the unit's name.
        images: name of the set of images that the class belongs to.
    """

    class_id: int
    ipc: int
    geometry: Geometry
    draw: int | None = None
    rule: str = field(default="herding", metadata=UNKEYED)
    images: str = field(default="distilled", metadata=UNKEYED)


def plan(planner: Planner) -> Groups:
    """Plan the images of each selection: a random draw for each student's seed, one choice by any other rule."""
    groups: Groups = []
    for base in _sets(planner):
        inputs, size = _inputs(planner, base.rule), max(1, IMAGES_PER_TASK // base.ipc)
        for start in range(0, len(planner.class_ids), size):
            some = planner.class_ids[start : start + size]
            groups.append([_unit(planner, replace(base, class_id=class_id), inputs(class_id)) for class_id in some])
    return groups


def _sets(planner: Planner) -> Iterator[Params]:
    """Yield what the classes of each set of images share: of selections, and of larger random sets."""
    config, draws = planner.config, range(planner.config.evaluate.num_students)
    sizes = planner.worth_sizes
    rules = [*planner.selections, *(["random"] if config.ipc in sizes else [])]
    for rule in dict.fromkeys(rules):
        if rule == "random":
            yield from (_drawn(planner, f"random-{draw}", config.ipc, draw) for draw in draws)
        else:
            images = made_set(rule) if rule == config.method else rule
            yield Params(0, config.ipc, planner.geometry, None, rule, images)
    for ipc, draw in itertools.product(sizes, draws):
        if ipc != config.ipc:
            yield _drawn(planner, f"worth-{ipc}-{draw}", ipc, draw)


def _drawn(planner: Planner, images: str, ipc: int, draw: int) -> Params:
    return Params(0, ipc, planner.geometry, draw, "random", images)


def _inputs(planner: Planner, rule: str) -> Callable[[int], Inputs]:
    """Return a function from a class to what a rule needs besides the images: the results of the last stage it uses."""
    stages = SELECTING[rule][-1:]
    refs = {stage: [unit.ref for unit in planner.units(stage)] for stage in stages}
    if rule == "nearest":
        refs = {"barycenter": planner.barycenters(planner.config.ipc)}
    shared: Inputs = {"teacher": planner.teacher} if rule == "easiest" else {}
    return lambda class_id: shared | {stage: refs[stage][class_id] for stage in stages}


def _unit(planner: Planner, params: Params, inputs: Inputs) -> PlannedUnit:
    prefix = f"{params.rule}-" if params.draw is None else f"{params.images}-"
    return planner.class_unit(SELECT, params.class_id, params, inputs, prefix=prefix)


SELECT = Stage(
    "select", 1, "", "wmdd.method.artifacts:DistilledClass", Params, plan, "wmdd.stages.select:select", gpu=False
)
