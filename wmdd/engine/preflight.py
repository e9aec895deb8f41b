"""What cannot work is refused before anything is trained.

Networks and weights are looked at by modules that import torch, for seconds: only where there are any to look at.
"""

from __future__ import annotations

import functools

from wmdd.config.base import Stem
from wmdd.config.distill import DistillConfig
from wmdd.config.methods import SELECTING
from wmdd.config.protocols import PROTOCOLS
from wmdd.data.index import DatasetIndex
from wmdd.errors import ConfigError, DataError
from wmdd.models.names import is_file, is_sound_convnet
from wmdd.stages.planning import classes_together, images_together
from wmdd.text import counted


def check(config: DistillConfig, index: DatasetIndex) -> None:
    """Refuse what cannot work with this set, before any training.

    Raises:
        ConfigError, DataError: one line with the remedy.
    """
    num_classes = len(index.class_names)
    if num_classes < 2:
        raise DataError(f"data.path={config.data.path}: has one class, {index.class_names[0]}; distillation needs two")
    _check_ipc(config, index)
    if config.method not in SELECTING:
        _check_tiles(config, index)
        _check_mix(config, num_classes)
        _check_feature_loss(config)
    _check_budgets(config)
    _check_protocol(config, index)
    _check_teacher(config, index)
    _check_labellers(config, num_classes)
    _check_students(config, num_classes)


def _check_ipc(config: DistillConfig, index: DatasetIndex) -> None:
    """Refuse more images than a class has."""
    ipc, kept = config.ipc, config.data.per_class
    for class_id, name in enumerate(index.class_names):
        count = len(index.train.of_class(class_id))
        if ipc <= count:
            continue
        if kept and kept < ipc:
            raise ConfigError(
                f"ipc={ipc}: is more than the images that data.per_class={kept} keeps of each class; lower it, or "
                "raise data.per_class"
            )
        raise ConfigError(
            f"ipc={ipc}: larger than class {name} ({counted(count, 'training image', 'training images')}); lower ipc"
        )


def _check_feature_loss(config: DistillConfig) -> None:
    """Refuse a choice of feature term that its weight leaves out."""
    if config.recover.feature_loss != "rms" and not config.recover.feature_weight:
        raise ConfigError(
            f"recover.feature_loss={config.recover.feature_loss}: is left out by recover.feature_weight=0; set that to "
            "the term's weight (transport: 100), or this to rms"
        )


def _check_budgets(config: DistillConfig) -> None:
    """Refuse batches of one image, and a temperature that sets of several sizes would not share."""
    if config.evaluate.temperature_decay < 1 and (config.evaluate.worth or config.tiles > 1):
        raise ConfigError(
            f"evaluate.temperature_decay={config.evaluate.temperature_decay:g}: falls by epochs, of which larger sets "
            "have fewer; set recover.tiles to 1 and leave evaluate.worth empty, or set it to 1"
        )
    for section in ("relabel", "pretrain"):
        if getattr(config, section).batch_size < 2:
            option = f"{section}.batch_size"
            raise ConfigError(f"{option}=1: batch-norm needs two images in a step; raise {option}")


def _check_protocol(config: DistillConfig, index: DatasetIndex) -> None:
    """Refuse batches that a protocol takes for another number of classes than the set has."""
    if config.data.classes or config.data.subset:
        return
    settings = PROTOCOLS[config.evaluate.protocol][1]
    named = config.model_copy(update={"data": config.data.model_copy(update={"classes": tuple(index.class_names)})})
    assumed, fitting = (settings(one).get("relabel.batch_size") for one in (config, named))
    if config.relabel.batch_size == assumed != fitting:
        raise ConfigError(
            f"relabel.batch_size={assumed}: protocol {config.evaluate.protocol} takes batches by the number of images, "
            f"and did not know the {len(index.class_names)} classes of this set, for which it has {fitting} at "
            f"ipc={config.ipc}; name them all in data.classes"
        )


def _check_teacher(config: DistillConfig, index: DatasetIndex) -> None:
    """Refuse a teacher that does not fit the images, the recovery or its own file of weights."""
    teacher, num_classes, size = config.pretrain, len(index.class_names), config.data.image_size
    if teacher.decode == "gpu" and not teacher.checkpoint:
        _check_gpu(config.runtime.device)
    _check_network(teacher.model, num_classes, size, teacher.stem, "pretrain.model")
    if config.recover.bn_weight and not _has_batch_norm(teacher.model, num_classes, size):
        raise ConfigError(
            f"pretrain.model={teacher.model}: has no batch-norm layers, whose statistics the images are to match; "
            "choose a teacher with batch-norm, such as resnet18, or set recover.bn_weight to 0"
        )
    if teacher.checkpoint and is_file(teacher.checkpoint):
        from wmdd.models.weights import check_card

        check_card(teacher.checkpoint, index.class_names, size, config.data.normalization)


def _check_labellers(config: DistillConfig, num_classes: int) -> None:
    """Refuse further teachers that label nothing, label twice or do not fit the images."""
    teacher, names = config.pretrain, config.relabel.teachers
    if names and config.evaluate.labels == "hard":
        raise ConfigError(f"relabel.teachers={','.join(names)}: nobody labels with evaluate.labels=hard; leave it out")
    for name in names:
        if name == teacher.model:
            raise ConfigError(f"relabel.teachers={name}: is pretrain.model, which labels anyway; leave it out")
        _check_network(name, num_classes, config.data.image_size, teacher.stem, "relabel.teachers")


def _check_students(config: DistillConfig, num_classes: int) -> None:
    """Refuse students that do not fit the images, or whose score would depend on the number of workers."""
    size, workers = config.data.image_size, config.evaluate.workers
    for student in config.evaluate.students:
        _check_network(student, num_classes, size, config.evaluate.stem, "evaluate.students")
        if workers > 1:
            _check_draws_nothing(student, num_classes, size, workers)


def _check_gpu(device: str) -> None:
    if device != "cuda":
        raise ConfigError(
            f"pretrain.decode=gpu: runtime.device={device} ensures no GPU; set runtime.device to cuda, or "
            "pretrain.decode to cpu"
        )


def _check_draws_nothing(student: str, num_classes: int, image_size: int, workers: int) -> None:
    """Raise ConfigError for a student of several workers that draws numbers, each worker others."""
    from wmdd.models.registry import draws, skeleton

    if draws(skeleton(student, num_classes, image_size)):
        raise ConfigError(
            f"evaluate.workers={workers}: the score of {student}, which has dropout, would depend on it; set it to 1"
        )


def _check_mix(config: DistillConfig, num_classes: int) -> None:
    """Refuse boxes of other images where a step has no other image of the class."""
    if config.recover.mix == "none":
        return
    if config.atoms == 1:
        raise ConfigError(
            f"recover.mix={config.recover.mix}: with ipc=1 a class has no other image to show; set it to none, or "
            "recover.tiles to 2"
        )
    largest = classes_together(config, num_classes)
    for classes in (largest, num_classes % largest or largest):  # the last group may be smaller
        images = images_together(config, classes) or config.atoms
        if images == 1 or config.atoms % images == 1:
            raise ConfigError(
                f"recover.mix={config.recover.mix}: with recover.bn_target=global, {classes} classes have "
                f"{counted(images, 'image', 'images')} each in a tensor batch, so one of the {config.ipc} of a class "
                "is there without another to show; set it to none, or change ipc or recover.classes_per_batch"
            )


def _check_tiles(config: DistillConfig, index: DatasetIndex) -> None:
    """Refuse tiles that do not fill an image, or that have no real image for each atom."""
    tiles, size = config.tiles, config.data.image_size
    if tiles == 1:
        return
    if size % tiles:
        raise ConfigError(f"recover.tiles={tiles}: does not divide data.image_size={size}; choose a divisor")
    if config.barycenter.mass == "learned":
        raise ConfigError(f"recover.tiles={tiles}: the tiles of an image have one mass; set barycenter.mass to uniform")
    if config.atoms > index.smallest_class:
        raise ConfigError(
            f"recover.tiles={tiles}: needs {config.atoms} real images of each class, and the smallest has "
            f"{index.smallest_class}; lower recover.tiles or ipc"
        )


def _check_network(name: str, num_classes: int, image_size: int, stem: Stem, option: str) -> None:
    if not is_sound_convnet(name, image_size):
        from wmdd.models.registry import check_model

        check_model(name, num_classes, image_size, stem=stem, option=option)


def _has_batch_norm(name: str, num_classes: int, image_size: int) -> bool:
    if is_sound_convnet(name, image_size):
        return True
    from wmdd.models.registry import has_batch_norm, skeleton

    return has_batch_norm(skeleton(name, num_classes, image_size))


def check_weights(config: DistillConfig, num_classes: int | None, *, fetch: bool = True) -> None:
    """Refuse weights of the teachers that cannot be read, cannot be fetched or do not fit.

    Args:
        num_classes: of the data; None where its files do not say without being read.
        fetch: also look whether published weights are there, which downloads them.

    Raises:
        ConfigError: one line with the remedy.
    """
    teacher, data = config.pretrain, config.data
    if teacher.checkpoint is None:
        return
    from wmdd.models.published import check_published
    from wmdd.models.registry import build_model
    from wmdd.models.weight_files import read_weights
    from wmdd.models.weights import load_weights

    if is_file(teacher.checkpoint):
        if num_classes is None:
            read_weights(teacher.checkpoint)
        else:
            network = build_model(
                teacher.model, num_classes, data.image_size, stem=teacher.stem, option="pretrain.model"
            )
            load_weights(network, teacher.checkpoint, teacher.model)
        return
    check_published(teacher.model, teacher.checkpoint, num_classes, data.normalization)
    others = config.relabel.teachers if config.evaluate.labels != "hard" else ()
    for name in others:
        _check_published_ensemble(config, name, num_classes)
    for name, source in ((teacher.model, teacher.checkpoint), *((name, "default") for name in others)) if fetch else ():
        _fit_published(name, source, teacher.stem, data.image_size)


@functools.cache
def _fit_published(name: str, source: str, stem: Stem, image_size: int) -> None:
    """Load published weights once in a process, as the stage will."""
    from wmdd.models.published import known_classes
    from wmdd.models.registry import build_model
    from wmdd.models.weights import load_weights

    num_classes = known_classes(name, source)
    if num_classes is not None:
        network = build_model(name, num_classes, image_size, stem=stem, option="pretrain.model")
        load_weights(network, source, name, image_size)


def _check_published_ensemble(config: DistillConfig, name: str, num_classes: int | None) -> None:
    from wmdd.models.published import check_published

    try:
        check_published(name, "default", num_classes, config.data.normalization)
    except ConfigError as exc:
        raise ConfigError(
            f"relabel.teachers={name}: its published weights do not fit, and the teacher's are published; choose "
            f"another network, or train the teacher ({exc})"
        ) from exc
