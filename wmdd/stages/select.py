"""Stage "select": real images, the baselines that every distilled set must beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from wmdd.config.base import Section
from wmdd.data.batches import Geometry, class_images
from wmdd.data.index import DatasetIndex
from wmdd.method.artifacts import ClassStatistics, DistilledClass
from wmdd.outputs import Output
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Groups, Inputs, PlannedUnit, Stage, Unit, Yielded
from wmdd.stages.planning import Planner


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
    for draw in range(draws):
        groups.append([_unit(planner, Params(class_id, ipc, geometry, draw), {}) for class_id in class_ids])
    return groups


def _unit(planner: Planner, params: Params, inputs: Inputs) -> PlannedUnit:
    prefix = "herding-" if params.draw is None else f"{params.images}-"
    return planner.class_unit(SELECT, params.class_id, params, inputs, prefix=prefix)


def select(_section: Section, units: list[Unit[Params]], seeds: SeedTree, _runtime: Runtime) -> Iterator[Yielded]:
    """Choose images of each unit's class: input ``index``, and ``statistics`` for herding."""
    for unit in units:
        index: DatasetIndex = unit.load("index")
        class_id, ipc, draw = unit.params.class_id, unit.params.ipc, unit.params.draw
        if draw is None:
            statistics: ClassStatistics = unit.load("statistics")
            rows = herd(statistics.features.numpy(), ipc)
        else:
            rng = seeds.child("select", draw, class_id).numpy()
            rows = rng.permutation(len(index.train.of_class(class_id)))[:ipc]
        images = class_images(index, class_id, unit.params.geometry, rows)
        weights = torch.full((ipc,), 1 / ipc)
        name, sources = index.class_names[class_id], tuple(rows.tolist())
        yield Output(unit.name, DistilledClass(class_id, images, weights, sources=sources, class_name=name))


def herd(features: np.ndarray, count: int) -> np.ndarray:
    """Choose rows one by one so that the mean of the chosen stays nearest to the mean of all (Welling, 2009).

    Args:
        features: (n, d), n at least `count`.

    Returns:
        (count,) distinct positions, best first.
    """
    wide = features.astype(np.float64)
    mean, total = wide.mean(axis=0), np.zeros(wide.shape[1])
    chosen: list[int] = []
    for size in range(1, count + 1):
        distance = np.square(mean - (total + wide) / size).sum(axis=1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
        total += wide[chosen[-1]]
    return np.array(chosen)


SELECT = Stage("select", 1, "", DistilledClass, Params, plan, select, gpu=False)
