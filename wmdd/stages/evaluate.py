"""Stage "evaluate": students trained on an image set and its soft labels, scored on real validation images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Self

import numpy as np
import torch

from wmdd.config.sections import EvaluateConfig
from wmdd.data.batches import Geometry, validation_batches
from wmdd.data.index import DatasetIndex
from wmdd.errors import ArtifactError
from wmdd.method.artifacts import ImageSet
from wmdd.models.registry import build_model
from wmdd.outputs import Output, Progress, Pulse, Snapshot, SnapshotClock
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Stage, Unit, Yielded
from wmdd.stages.supervision import HardLessons, Lessons, SoftLessons
from wmdd.storage.artifact import Files
from wmdd.training.accuracy import top1_accuracy
from wmdd.training.optim import student_optimizer
from wmdd.training.schedules import student_schedule
from wmdd.training.trainer import Epoch, Steps, Trainer


@dataclass(frozen=True)
class StudentResult:
    """How one student did on the real validation images.

    Args:
        student: network name.
        images: the training set, ``distilled`` or ``random-DRAW``.
        seed: which student.
        top1_last, top1_best: fractions after the last, and of the best validated epoch.
        top1_ema_last, top1_ema_best: the same of the averaged network, where there is one.
        curve: epoch, loss and top-1 per validated epoch.
        protocol, protocol_hash: what the score can be compared with.
        class_names: that the student was scored on, in the order of its outputs; none in artifacts of older versions.
    """

    student: str
    images: str
    seed: int
    top1_last: float
    top1_best: float
    curve: tuple[dict[str, float], ...]
    protocol: str
    protocol_hash: str
    top1_ema_last: float | None = None
    top1_ema_best: float | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        scores = (self.top1_last, self.top1_best, self.top1_ema_last or 0, self.top1_ema_best or 0)
        if not all(0 <= score <= 1 for score in scores):
            raise ValueError(f"top1 {scores} are no fractions")

    def to_files(self) -> dict[str, bytes]:
        """Give one JSON file."""
        return {"student.json": json.dumps(asdict(self)).encode()}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read the file."""
        values = json.loads(files.read("student.json"))
        try:
            values["curve"] = tuple(values["curve"])
            values["class_names"] = tuple(values.get("class_names", ()))
            return cls(**values)
        except (KeyError, TypeError) as exc:
            raise ArtifactError(f"student.json has another schema: {exc}") from exc


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
        optimizer=student_optimizer(section, network),
        schedule=student_schedule(section, lessons.epochs * lessons.steps),
        batches=lessons.batches,
        loss=lessons.loss,
        validate=validate,
        epochs=lessons.epochs,
        steps_per_epoch=lessons.steps,
        runtime=runtime,
        seeds=seeds.child("dropout"),
        val_every=section.val_every,
        accumulate=section.accumulate,
        ema=section.ema,
    )


EVALUATE = Stage("evaluate", 2, "evaluate", StudentResult, evaluate, snapshots=True)
