"""Stage "pretrain": a teacher trained on the real set, or loaded and measured."""

from __future__ import annotations

import io
from collections.abc import Iterator

import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from wmdd.config.teacher import PretrainConfig
from wmdd.data.augment import augmentation, erasing, mixing
from wmdd.data.batches import TrainingBatches, batch_places, validation_batches
from wmdd.data.decoding.jpeg import decode_on_gpu
from wmdd.distributed import Ranks
from wmdd.errors import ConfigError
from wmdd.models.registry import build_model, load_state
from wmdd.outputs import Note, Output, Progress, Snapshot
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit, Yielded
from wmdd.stages.load_teacher import as_teacher, hardly, load_teacher, size_of
from wmdd.stages.plans.pretrain import Params
from wmdd.training.accuracy import images_per_pass, top1_accuracy
from wmdd.training.optim import teacher_optimizer
from wmdd.training.schedules import teacher_schedule
from wmdd.training.teams import ranks_of
from wmdd.training.threads import Batches, CostWatch, choose_threads, resumed_threads
from wmdd.training.trainer import Steps, Trainer, threads_of


def pretrain(
    section: PretrainConfig, units: list[Unit[Params]], seeds: SeedTree, runtime: Runtime
) -> Iterator[Yielded]:
    """Train (or load) each unit's network: input ``index``.

    With ``section.workers`` above one, that many processes run this function at the same time, in one process group of
    torch; the first of them alone yields outputs and snapshots, and needs the snapshot to resume from.
    """
    for unit in units:
        own = seeds.child("pretrain", unit.name)
        with own.child("init").scoped():
            network = _network(unit)
        if unit.params.weights:
            yield from load_teacher(section, unit, network, runtime)
        else:
            yield from _train(section, unit, network, own, runtime)


def _network(unit: Unit[Params]) -> nn.Module:
    params, num_classes = unit.params, len(unit.load("index").class_names)
    return build_model(params.model, num_classes, params.geometry.image_size, stem=params.stem)


def _train(
    section: PretrainConfig, unit: Unit[Params], network: nn.Module, own: SeedTree, runtime: Runtime
) -> Iterator[Yielded]:
    ranks = _ranks(section, len(unit.load("index").train), runtime)
    if section.decode == "gpu":
        _check_decoder(runtime)
    batches = Batches(section.batch_size, unit.params.geometry.image_size)
    snapshot = ranks.from_first(unit.resume, runtime.device)
    threads, note = _threads(unit, batches, snapshot, runtime, ranks)
    runtime.use_threads(threads)
    if note and ranks.is_first:
        yield Note(f"{unit.name} {note}")
    watch = CostWatch.begin(unit.name, network, batches, threads, runtime, own.child("cost"))
    trainer = _trainer(section, unit, runtime.place(network), own, runtime, ranks)
    if snapshot:
        trainer.resume(snapshot)
        yield Progress(trainer.epoch, section.epochs, "goes on from a snapshot" if trainer.epoch else "")
    elif ranks.is_first:
        yield Snapshot(trainer.snapshot())  # keeps the number of threads, also of a run that ends in its first epoch
    for epoch in trainer.run():
        yield from watch.look(trainer)
        if isinstance(epoch, Steps):
            yield Progress(trainer.epoch, section.epochs, str(epoch))
            continue
        note = f"loss {epoch.loss:.3f}" + (f", validation top-1 {epoch.top1:.1%}" if epoch.top1 is not None else "")
        yield Progress(epoch.epoch, section.epochs, note, trainer.curve[-1])
        if epoch.epoch < section.epochs and ranks.is_first:
            yield Snapshot(trainer.snapshot())
    yield from _finished(section, unit, trainer)


def _threads(
    unit: Unit[Params], batches: Batches, snapshot: bytes | None, runtime: Runtime, ranks: Ranks
) -> tuple[int, str]:
    """Return the number of threads, the same for all ranks, and a note; a resumed training keeps what it began with."""
    written = threads_of(snapshot) if snapshot else None
    if written:
        threads, note = resumed_threads(written, runtime)
    else:
        threads, note = choose_threads(size_of(unit), batches, runtime, ranks)
    shared = ranks.from_first(str(threads).encode(), runtime.device)
    return int(shared or threads), note


def _finished(section: PretrainConfig, unit: Unit[Params], trainer: Trainer) -> Iterator[Yielded]:
    network = trainer.result
    if trainer.best is not None:
        load_state(network, trainer.best[0])
    if section.sync_bn:  # batch-norm layers that a process alone can run
        plain = _network(unit)
        plain.load_state_dict(network.state_dict())
        network = trainer.runtime.place(plain)
    teacher = as_teacher(unit, network, trainer.score, trainer.curve)
    if not trainer.ranks.is_first:
        return
    if teacher.top1 < hardly(teacher.num_classes):
        yield Note(
            f"{unit.name} names {teacher.top1:.1%} of the validation images right, and chance "
            f"{1 / teacher.num_classes:.1%}: images and labels made with it teach little; train it longer "
            "(pretrain.epochs), or look at the set's labels"
        )
    yield Output(unit.name, teacher)


def _ranks(section: PretrainConfig, images: int, runtime: Runtime) -> Ranks:
    ranks = ranks_of("pretrain.workers", section.workers)
    if section.sync_bn and runtime.device.type != "cuda":
        raise ConfigError("pretrain.sync_bn=true: torch shares batch-norm statistics on GPUs only; set it to false")
    if ranks.size > 1 and images < 2 * ranks.size:
        raise ConfigError(
            f"pretrain.workers={section.workers}: {images} training images are fewer than two for each; "
            "lower pretrain.workers"
        )
    return ranks


def _check_decoder(runtime: Runtime) -> None:
    """Refuse a device that decodes no JPEG file."""
    if runtime.device.type != "cuda":
        raise ConfigError("pretrain.decode=gpu: torch sees no GPU here; set it to cpu")
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    try:
        decode_on_gpu([file.getvalue()], runtime.device)
    except RuntimeError as exc:
        reason = str(exc).strip().partition("\n")[0]
        raise ConfigError(f"pretrain.decode=gpu: {reason}; install wmdd[jpeg] for this GPU, or set it to cpu") from exc


def _trainer(
    section: PretrainConfig, unit: Unit[Params], network: nn.Module, seeds: SeedTree, runtime: Runtime, ranks: Ranks
) -> Trainer:
    index, geometry = unit.load("index"), unit.params.geometry
    steps_per_epoch = -(-len(index.train) // section.batch_size)
    optimizer = teacher_optimizer(section, network)
    if section.sync_bn:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)

    training = TrainingBatches(index, geometry, section, seeds.child("data"), runtime, ranks)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        change, erase = augmentation(section.augment, geometry.pixels, section.augment_strength), erasing(section.erase)
        mix = mixing(section, len(index.class_names))
        for images, labels in training.epoch(epoch):
            yield mix(erase(change(images)), labels)

    together = images_per_pass(network, geometry.image_size, runtime)

    def validate(student: nn.Module) -> float:
        scored = validation_batches(index, geometry, together, runtime, ranks)
        return top1_accuracy(student, scored, runtime, ranks)

    return Trainer(
        network=network,
        optimizer=optimizer,
        schedule=teacher_schedule(section, steps_per_epoch),
        batches=batches,
        loss=lambda logits, labels: F.cross_entropy(logits.float(), labels, label_smoothing=section.label_smoothing),
        validate=validate,
        epochs=section.epochs,
        steps_per_epoch=steps_per_epoch,
        runtime=runtime,
        seeds=seeds.child("dropout"),
        val_every=1 if section.keep == "best" else max(1, section.epochs // 10),
        keep_best=section.keep == "best",
        clip_norm=section.clip_norm,
        ema=section.ema,
        ema_every=section.ema_every,
        ranks=ranks,
        sizes=[len(batch) for batch in batch_places(len(index.train), section.batch_size, ranks)],
    )
