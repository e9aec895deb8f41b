"""Stage "select": real images, the baselines that every distilled set must beat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from wmdd.config.base import Section
from wmdd.data.batches import class_images
from wmdd.data.index import DatasetIndex
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass
from wmdd.models.probes import head_logits
from wmdd.models.teacher import Teacher
from wmdd.outputs import Output
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit, Yielded
from wmdd.stages.plans.select import Params


def select(_section: Section, units: list[Unit[Params]], seeds: SeedTree, _runtime: Runtime) -> Iterator[Yielded]:
    """Choose images of each unit's class: input ``index``, and what the rule needs.

    That is the ``barycenter`` for the nearest images, ``statistics`` for herding, with the ``teacher`` for the easiest.
    """
    for unit in units:
        index: DatasetIndex = unit.load("index")
        class_id, ipc = unit.params.class_id, unit.params.ipc
        mass = torch.full((ipc,), 1 / ipc)
        if unit.params.draw is not None:
            rng = seeds.child("select", unit.params.draw, class_id).numpy()
            rows = rng.permutation(len(index.train.of_class(class_id)))[:ipc]
        elif unit.params.rule == "nearest":
            barycenter: Barycenter = unit.load("barycenter")
            rows, mass = barycenter.nearest.numpy(), barycenter.mass
        else:
            statistics: ClassStatistics = unit.load("statistics")
            easiest = unit.params.rule == "easiest"
            rows = (
                by_loss(unit.load("teacher"), statistics)[:ipc] if easiest else herd(statistics.features.numpy(), ipc)
            )
        images = class_images(index, class_id, unit.params.geometry, rows)
        name, sources = index.class_names[class_id], tuple(rows.tolist())
        yield Output(unit.name, DistilledClass(class_id, images, mass, sources=sources, class_name=name))


def by_loss(teacher: Teacher, statistics: ClassStatistics) -> np.ndarray:
    """Return the positions of a class's images by the teacher's cross-entropy, the lowest first.

    The logits follow from the features, so no image passes the teacher again.
    """
    logits = head_logits(teacher.network, teacher.num_classes, statistics.features)
    classes = torch.full((len(logits),), statistics.class_id)
    order: np.ndarray = F.cross_entropy(logits, classes, reduction="none").argsort(stable=True).numpy()
    return order


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
