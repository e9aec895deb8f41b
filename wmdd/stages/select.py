"""Stage "select": real images, the baselines that every distilled set must beat."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from wmdd.config.base import Section
from wmdd.data.batches import class_images
from wmdd.data.index import DatasetIndex
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass
from wmdd.method.selection import by_loss, herd
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
