"""Stage "evaluate": students trained on an image set and its soft labels, scored on real validation images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Self

import numpy as np
import torch

from wmdd.config.students import EvaluateConfig
from wmdd.data.batches import validation_batches
from wmdd.data.index import DatasetIndex
from wmdd.distributed import Ranks
from wmdd.errors import ArtifactError
from wmdd.method.artifacts import ImageSet
from wmdd.models.registry import build_model
from wmdd.outputs import Output, Progress, Pulse, Snapshot, SnapshotClock
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit, Yielded
from wmdd.stages.fixed_labels import FixedLessons
from wmdd.stages.plans.evaluate import Params
from wmdd.stages.supervision import HardLessons, SoftLessons
from wmdd.storage.artifact import Files
from wmdd.training.accuracy import images_per_pass, top1_accuracy
from wmdd.training.optim import student_optimizer
from wmdd.training.schedules import student_schedule
from wmdd.training.shared_norm import share_batch_norm
from wmdd.training.teams import ranks_of
from wmdd.training.trainer import Steps, Trainer


@dataclass(frozen=True)
class StudentResult:
    """How one student did on the real validation images.

    Args:
        student: network name.
        images: the training set: ``distilled``, ``random-DRAW``, ``nearest``, ``easiest``, ``herding`` or
            ``worth-IPC-DRAW``.
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
        """Return one JSON file."""
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


def evaluate(
    section: EvaluateConfig, units: list[Unit[Params]], seeds: SeedTree, runtime: Runtime
) -> Iterator[Yielded]:
    """Train each unit's student: inputs ``classes``, ``index`` and ``labels``, or the ``teacher`` if they are fixed.

    With ``section.workers`` above one, that many processes run this function, as those that pretrain a teacher do.
    """
    ranks = ranks_of("evaluate.workers", section.workers)
    for unit in units:
        params = unit.params
        own = seeds.child("student", params.student, params.seed)
        trainer = _trainer(section.of(params.student), unit, own, runtime, ranks)
        snapshot = ranks.from_first(unit.resume, runtime.device)
        if snapshot:
            trainer.resume(snapshot)
            yield Progress(trainer.epoch, trainer.epochs, "goes on from a snapshot")
        # The optimiser keeps two numbers for each weight.
        pulse, snapshots = Pulse(), SnapshotClock(3 * sum(weight.nbytes for weight in trainer.network.parameters()))
        for epoch in trainer.run():
            if isinstance(epoch, Steps):
                yield Progress(trainer.epoch, trainer.epochs, str(epoch))
                continue
            if epoch.top1 is not None:
                yield Progress(epoch.epoch, trainer.epochs, f"top-1 {epoch.top1:.1%}", trainer.curve[-1])
            elif pulse.is_due():
                yield Progress(trainer.epoch, trainer.epochs)
            if epoch.epoch < trainer.epochs and ranks.is_first and snapshots.is_due():
                snapshots.begin()
                yield Snapshot(trainer.snapshot())
                snapshots.end()
        if not ranks.is_first:
            continue
        yield Output(unit.name, _result(trainer, unit))


def _result(trainer: Trainer, unit: Unit[Params]) -> StudentResult:
    curve, params = [point for point in trainer.curve if "top1" in point], unit.params
    return StudentResult(
        student=params.student,
        images=params.images,
        seed=params.seed,
        top1_last=curve[-1]["top1"],
        top1_best=max(point["top1"] for point in curve),
        curve=tuple(curve),
        protocol=params.protocol,
        protocol_hash=params.protocol_hash,
        class_names=unit.load("index").class_names,
        top1_ema_last=curve[-1].get("top1_ema"),
        top1_ema_best=max((point["top1_ema"] for point in curve if "top1_ema" in point), default=None),
    )


_SUPERVISION: dict[str, type[HardLessons | SoftLessons]] = {
    "soft": SoftLessons,
    "fixed": FixedLessons,
    "hard": HardLessons,
}


def _trainer(section: EvaluateConfig, unit: Unit[Params], seeds: SeedTree, runtime: Runtime, ranks: Ranks) -> Trainer:
    index: DatasetIndex = unit.load("index")
    if unit.params.class_ids:
        scored_on = np.flatnonzero(np.isin(index.val.label, unit.params.class_ids))
        index = replace(index, val=index.val.take(scored_on))
    geometry, num_classes = unit.params.geometry, len(index.class_names)
    images = ImageSet.of(unit.load("classes"))
    with seeds.child("init").scoped():
        network = build_model(unit.params.student, num_classes, geometry.image_size, stem=section.stem)
    network = runtime.place(network)
    supervision = _SUPERVISION[section.labels]
    share_batch_norm(network, ranks)
    lessons = supervision(section, unit, images, seeds, runtime, ranks)

    together = section.val_batch_size or images_per_pass(network, geometry.image_size, runtime)

    def validate(student: torch.nn.Module) -> float:
        scored = validation_batches(index, geometry, together, runtime, ranks)
        return top1_accuracy(student, scored, runtime, ranks)

    return Trainer(
        network=network,
        optimizer=student_optimizer(section, network, lessons.learned),
        schedule=student_schedule(section, lessons.epochs * lessons.steps),
        batches=lessons.batches,
        loss=lessons.loss,
        learned=lessons.learned,
        validate=validate,
        epochs=lessons.epochs,
        steps_per_epoch=lessons.steps,
        runtime=runtime,
        seeds=seeds.child("dropout"),
        val_every=section.val_every,
        ranks=ranks,
        sizes=lessons.sizes,
        draws_together=True,
        accumulate=section.accumulate,
        ema=section.ema,
    )
