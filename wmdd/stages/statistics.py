"""Stage "statistics": one pass over a class's real images gives features and exact batch-norm moments."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch import Tensor

from wmdd.config.recovery import StatisticsConfig
from wmdd.data.batches import class_images
from wmdd.data.geometry import Geometry
from wmdd.data.index import DatasetIndex
from wmdd.data.views import Views, draw_resized_crops, sample_views
from wmdd.method.artifacts import ClassStatistics
from wmdd.method.moments import Moments
from wmdd.models.probes import Probe
from wmdd.models.teacher import Teacher
from wmdd.outputs import Output, Progress, Pulse
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit, Yielded
from wmdd.stages.planning import ClassParams


def statistics(
    section: StatisticsConfig, units: list[Unit[ClassParams]], seeds: SeedTree, runtime: Runtime
) -> Iterator[Yielded]:
    """Measure each unit's class: inputs ``teacher`` and ``index``.

    Each image is decoded once, and passes the teacher once, or twice if features and moments are of other views.
    """
    for unit in units:
        teacher, index, class_id = unit.load("teacher"), unit.load("index"), unit.params.class_id
        value = yield from _measure(section, teacher, index, class_id, seeds.child("statistics", class_id), runtime)
        yield Output(unit.name, value)


@torch.no_grad()
def _measure(
    section: StatisticsConfig, teacher: Teacher, index: DatasetIndex, class_id: int, seeds: SeedTree, runtime: Runtime
) -> Generator[Progress, None, ClassStatistics]:
    """Measure one class with the teacher in evaluation mode; only this class's features are ever in memory."""
    network = runtime.place(teacher.network)
    geometry = Geometry(teacher.image_size, teacher.crop_ratio, teacher.normalization)
    rows = np.arange(len(index.train.of_class(class_id)))
    features: list[Tensor] = []
    moments: tuple[Moments, ...] = ()
    pulse, size = Pulse(), (teacher.image_size, teacher.image_size)
    # Drawn for the whole class, so that batches change nothing.
    views = draw_resized_crops(seeds.numpy(), len(rows), size, section.crop_scale, flip=section.flip)
    parts = [slice(start, start + section.batch_size) for start in range(0, len(rows), section.batch_size)]
    batches = runtime.ahead(class_images(index, class_id, geometry, rows[part]) for part in parts)
    with Probe(network, teacher.num_classes) as probe:
        for part, images in zip(parts, batches, strict=True):
            pixels = teacher.pixels.normalize(runtime.send(images))
            shown = {"whole": None, "random": views[part]}
            batch_features, bn_inputs = _run(probe, pixels, shown[section.views], runtime)
            measured = Moments.of_layers(bn_inputs)
            moments = tuple(map(Moments.merge, moments, measured)) if moments else measured
            del bn_inputs  # they would be in memory together with those of the second pass
            if section.views_of_features != section.views:
                batch_features, _ = _run(probe, pixels, shown[section.views_of_features], runtime)
            features.append(batch_features)
            if pulse.is_due():
                yield Progress(part.start, len(rows), "images")
    return ClassStatistics(class_id, torch.cat(features).cpu(), moments, index.class_names[class_id])


def _run(probe: Probe, pixels: Tensor, views: Views | None, runtime: Runtime) -> tuple[Tensor, list[Tensor]]:
    """Return features, float32, and batch-norm inputs of views of square images; None for the whole images."""
    if views is not None:
        pixels = sample_views(pixels, views.to(runtime), pixels.shape[-1])
    with runtime.autocast():
        _, features, bn_inputs = probe.run(runtime.images(pixels))
    return features.float(), bn_inputs
