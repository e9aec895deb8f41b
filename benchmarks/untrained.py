"""An untrained teacher, and classes for it to recover: speed does not depend on weights."""

from __future__ import annotations

import torch

from wmdd.config.base import Stem
from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.moments import Moments
from wmdd.method.recovery import Target
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.seeding import SeedTree


def untrained_teacher(model: str, size: int, classes: int, stem: Stem = "auto") -> Teacher:
    """Build a teacher of `size` px images with random weights."""
    with SeedTree(0).scoped():
        network = build_model(model, classes, size, stem=stem)
    names = tuple(f"class {number}" for number in range(classes))
    return Teacher(model, stem, dict(network.state_dict()), names, 0.1, size, 1.0, "half")


def random_targets(teacher: Teacher, ipc: int) -> list[Target]:
    """Make a target of `ipc` images for each class, all with the statistics of eight images of noise."""
    size = teacher.image_size
    noise = torch.randn(8, 3, size, size, generator=SeedTree(0).child("noise").torch())
    with Probe(teacher.network.cpu(), teacher.num_classes) as probe, torch.no_grad():
        _, features, inputs = probe.run(noise)
    moments = tuple(Moments.of(layer) for layer in inputs)
    masses = torch.full((ipc,), 1 / ipc)
    support = torch.zeros(ipc, features.shape[1])
    return [
        Target(
            ClassStatistics(class_id, features, moments),
            Barycenter(class_id, support, masses, torch.arange(ipc), (1.0,), True, (0.0,) * 5),
            SeedTree(0).child(class_id),
            None,
        )
        for class_id in range(teacher.num_classes)
    ]
