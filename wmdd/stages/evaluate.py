"""Stage "evaluate": students trained on an image set and its soft labels, scored on real validation images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from wmdd.config import EvaluateConfig
from wmdd.data.index import DatasetIndex
from wmdd.data.loading import Geometry, validation_batches
from wmdd.events import Output, Progress, Snapshot
from wmdd.labels import SoftLabels, check_labels
from wmdd.losses import soft_label_loss
from wmdd.models.registry import build_model
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Stage, Unit, Yielded
from wmdd.training import Schedule, Trainer, top1_accuracy, weight_groups
from wmdd.types import ImageSet, StudentResult


def evaluate(section: EvaluateConfig, units: list[Unit], seeds: SeedTree, runtime: Runtime) -> Iterator[Yielded]:
    """Train each unit's student: params ``student``, ``seed``, ``images``, ``geometry``, ``protocol``,
    ``protocol_hash``, and ``class_ids`` where the set has only these; inputs ``classes``, ``labels`` and ``index``.
    """
    for unit in units:
        params = unit.params
        trainer = _trainer(section, unit, seeds.child("student", params["student"], params["seed"]), runtime)
        if unit.resume:
            trainer.resume(unit.resume)
        for epoch in trainer.run():
            if epoch.top1 is not None:
                yield Progress(epoch.epoch, trainer.epochs, f"top-1 {epoch.top1:.1%}", trainer.curve[-1])
                if epoch.epoch < trainer.epochs:
                    yield Snapshot(trainer.snapshot())
        curve = [point for point in trainer.curve if "top1" in point]
        result = StudentResult(
            student=params["student"],
            images=params["images"],
            seed=params["seed"],
            top1_last=curve[-1]["top1"],
            top1_best=max(point["top1"] for point in curve),
            curve=tuple(curve),
            protocol=params["protocol"],
            protocol_hash=params["protocol_hash"],
        )
        yield Output(unit.name, result)


def _trainer(section: EvaluateConfig, unit: Unit, seeds: SeedTree, runtime: Runtime) -> Trainer:
    index: DatasetIndex = unit.load("index")
    if "class_ids" in unit.params:
        scored_on = np.flatnonzero(np.isin(index.val.label, unit.params["class_ids"]))
        index = replace(index, val=index.val.take(scored_on))
    geometry = Geometry(**unit.params["geometry"])
    images, labels = ImageSet.of(unit.load("classes")), SoftLabels(unit.load("labels"))
    check_labels(labels, images)
    # Mean 1 over the set, so that unequal weights change the balance of images and not the learning rate.
    weights = (images.weights / images.weights.mean()).to(runtime.device)
    with seeds.child("init").scoped():
        name, stem = unit.params["student"], section.stem
        network = build_model(name, len(index.class_names), geometry.image_size, stem=stem)
    network = runtime.place(network)

    def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        for batch in labels.epoch(epoch):
            shown = batch.replay(images.images, geometry.pixels, runtime)
            yield shown, batch.logits.to(runtime.device), weights[batch.images.to(runtime.device)]

    def loss(logits: Tensor, teacher_logits: Tensor, batch_weights: Tensor) -> Tensor:
        return soft_label_loss(logits, teacher_logits, batch_weights, section.temperature)

    def validate(student: torch.nn.Module) -> float:
        scored = validation_batches(index, geometry, section.val_batch_size, runtime)
        return top1_accuracy(student, scored, runtime)

    return Trainer(
        network=network,
        optimizer=torch.optim.AdamW(weight_groups(network, section.weight_decay), lr=section.lr),
        schedule=Schedule(section.lr, labels.epochs * labels.batches, stretch=section.cosine_stretch),
        batches=batches,
        loss=loss,
        validate=validate,
        epochs=labels.epochs,
        runtime=runtime,
        seeds=seeds.child("dropout"),
        val_every=section.val_every,
    )


_CHOICES = frozenset({"students", "seeds", "random_real", "full_data", "val_batch_size"})
EVALUATE = Stage("evaluate", 1, "evaluate", StudentResult, evaluate, snapshots=True, unkeyed=_CHOICES)
