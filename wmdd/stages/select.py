"""Stage "select": real images, the baselines that every distilled set must beat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from wmdd.config.base import Section
from wmdd.data.batches import class_images
from wmdd.data.index import DatasetIndex
from wmdd.method.artifacts import ClassStatistics, DistilledClass
from wmdd.outputs import Output
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit, Yielded
from wmdd.stages.plans.select import Params


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
