"""Stage "select": random real images, the baseline that every distilled set must beat."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from wmdd.config import BarycenterConfig
from wmdd.data.index import DatasetIndex
from wmdd.data.loading import Geometry, class_images
from wmdd.events import Output
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Stage, Unit, Yielded
from wmdd.types import DistilledClass


def select(section: BarycenterConfig, units: list[Unit], seeds: SeedTree, _runtime: Runtime) -> Iterator[Yielded]:
    """Draw ipc images of each unit's class: params ``class_id``, ``draw``, ``geometry``; input ``index``."""
    for unit in units:
        index: DatasetIndex = unit.load("index")
        class_id, draw = unit.params["class_id"], unit.params["draw"]
        rng = seeds.child("select", draw, class_id).numpy()
        rows = rng.permutation(len(index.train.of_class(class_id)))[: section.ipc]
        images = class_images(index, class_id, Geometry(**unit.params["geometry"]), rows)
        weights = torch.full((section.ipc,), 1 / section.ipc)
        yield Output(unit.name, DistilledClass(class_id, images, weights, sources=tuple(rows.tolist())))


_OTHERS = frozenset(BarycenterConfig.model_fields) - {"ipc"}
SELECT = Stage("select", 1, "barycenter", DistilledClass, select, unkeyed=_OTHERS)
