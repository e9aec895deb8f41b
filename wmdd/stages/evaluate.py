"""Stage "evaluate": students trained on an image set and its soft labels, scored on real validation images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from wmdd.data.index import DatasetIndex
from wmdd.data.loading import Geometry, validation_batches
from wmdd.events import Output, Progress, Pulse, Snapshot, SnapshotClock
from wmdd.models.registry import build_model
from wmdd.runtime import Runtime
from wmdd.sections import EvaluateConfig
from wmdd.seeding import SeedTree
from wmdd.stages.base import Stage, Unit, Yielded
from wmdd.stages.lessons import HardLessons, Lessons, SoftLessons
from wmdd.training import Epoch, Schedule, Steps, Trainer, top1_accuracy, weight_groups
from wmdd.types import ImageSet, StudentResult

# Of the steps, as EDC trains on CIFAR-10, and on CIFAR-100 and ImageNet's subsets (Shao et al., 2024).
HALVED_AT = (0.8, 0.9, 0.95)
TAIL_FROM = 5 / 6


def evaluate(section: EvaluateConfig, units: list[Unit], seeds: SeedTree, runtime: Runtime) -> Iterator[Yielded]:
    """Train each unit's student: params ``student``, ``seed``, ``images``, ``geometry``, ``protocol``,
    ``protocol_hash``, and ``class_ids`` where the set has only these; inputs ``classes``, ``labels`` and ``index``.
    """
    for unit in units:
        params = unit.params
        trainer = _trainer(section, unit, seeds.child("student", params["student"], params["seed"]), runtime)
        if unit.resume:
            trainer.resume(unit.resume)
            yield Progress(trainer.epoch, trainer.epochs, "goes on from a snapshot")
        pulse, snapshots = Pulse(), SnapshotClock()
        for epoch in trainer.run():
            if isinstance(epoch, Steps) or (epoch.top1 is None and pulse.is_due()):
                yield Progress(trainer.epoch, trainer.epochs, str(epoch) if isinstance(epoch, Steps) else "")
            elif isinstance(epoch, Epoch) and epoch.top1 is not None:
                yield Progress(epoch.epoch, trainer.epochs, f"top-1 {epoch.top1:.1%}", trainer.curve[-1])
            if isinstance(epoch, Steps) or epoch.epoch == trainer.epochs:
                continue
            if epoch.top1 is not None or snapshots.is_due():  # epochs that are not validated may be many and long
                snapshots.begin()
                yield Snapshot(trainer.snapshot())
                snapshots.end()
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
            class_names=unit.load("index").class_names,
            top1_ema_last=curve[-1].get("top1_ema"),
            top1_ema_best=max((point["top1_ema"] for point in curve if "top1_ema" in point), default=None),
        )
        yield Output(unit.name, result)


def _trainer(section: EvaluateConfig, unit: Unit, seeds: SeedTree, runtime: Runtime) -> Trainer:
    index: DatasetIndex = unit.load("index")
    if "class_ids" in unit.params:
        scored_on = np.flatnonzero(np.isin(index.val.label, unit.params["class_ids"]))
        index = replace(index, val=index.val.take(scored_on))
    geometry = Geometry(**unit.params["geometry"])
    images = ImageSet.of(unit.load("classes"))
    with seeds.child("init").scoped():
        name, stem = unit.params["student"], section.stem
        network = build_model(name, len(index.class_names), geometry.image_size, stem=stem)
    network = runtime.place(network)
    lessons: Lessons = (HardLessons if section.labels == "hard" else SoftLessons)(section, unit, images, seeds, runtime)

    def validate(student: torch.nn.Module) -> float:
        scored = validation_batches(index, geometry, section.val_batch_size, runtime)
        return top1_accuracy(student, scored, runtime)

    return Trainer(
        network=network,
        optimizer=_optimizer(section, network),
        schedule=_schedule(section, lessons.epochs * lessons.steps),
        batches=lessons.batches,
        loss=lessons.loss,
        validate=validate,
        epochs=lessons.epochs,
        runtime=runtime,
        seeds=seeds.child("dropout"),
        val_every=section.val_every,
        accumulate=section.accumulate,
        ema=section.ema,
    )


def _schedule(section: EvaluateConfig, steps: int) -> Schedule:
    halved_at = HALVED_AT if section.schedule == "steps" else ()
    tail_from = TAIL_FROM if section.schedule == "tail" else 1.0
    return Schedule(
        section.lr,
        steps,
        stretch=section.cosine_stretch,
        halved_at=halved_at,
        tail_from=tail_from,
        line=section.schedule == "linear",
    )


def _optimizer(section: EvaluateConfig, network: torch.nn.Module) -> torch.optim.Optimizer:
    groups = weight_groups(network, section.weight_decay)
    if section.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=section.lr, momentum=section.momentum)
    return torch.optim.AdamW(groups, lr=section.lr)


_CHOICES = frozenset({"students", "seeds", "random_real", "full_data", "val_batch_size", "protocol"})
EVALUATE = Stage("evaluate", 2, "evaluate", StudentResult, evaluate, snapshots=True, unkeyed=_CHOICES)
