"""A teacher that is loaded: measured on the real set, and refused where it cannot be right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from wmdd.config.teacher import PretrainConfig
from wmdd.data.batches import validation_batches
from wmdd.data.geometry import Geometry
from wmdd.data.index import DatasetIndex
from wmdd.distributed import ALONE
from wmdd.errors import ConfigError
from wmdd.models.size import NetworkSize, network_size
from wmdd.models.teacher import Teacher
from wmdd.models.weights import load_weights
from wmdd.outputs import Note, Output, Progress
from wmdd.runtime import Runtime
from wmdd.stages.base import Unit, Yielded
from wmdd.training.accuracy import images_per_pass, predictions
from wmdd.training.threads import Batches, choose_threads

if TYPE_CHECKING:
    from wmdd.stages.plans.pretrain import Params

FEW_IMAGES = 5  # of a class: what fewer are called says little


def load_teacher(
    section: PretrainConfig, unit: Unit[Params], network: nn.Module, runtime: Runtime
) -> Iterator[Yielded]:
    """Load a unit's weights into its network, measure it on the validation images, and yield it.

    Raises:
        ConfigError: if the weights do not fit, or know nothing of these images.
    """
    index, geometry, weights = unit.load("index"), unit.params.geometry, unit.params.weights
    assert weights is not None
    for line in load_weights(network, weights, unit.params.model, geometry.image_size):
        yield Note(line)
    batches = Batches(section.batch_size, geometry.image_size)
    runtime.use_threads(choose_threads(size_of(unit), batches, runtime, ALONE)[0])
    runtime.place(network)
    yield Progress(0, 1, "measures the loaded teacher")
    counts = best_input(network, functools.partial(_confusion, network, index, geometry, runtime))
    check_order(weights, counts, index.class_names)
    teacher = as_teacher(unit, network, float(np.trace(counts) / counts.sum()))
    _check_score(weights, teacher)
    yield Output(unit.name, teacher)


def size_of(unit: Unit[Params]) -> NetworkSize:
    """Return the size of a unit's network."""
    params, num_classes = unit.params, len(unit.load("index").class_names)
    return network_size(params.model, num_classes, params.geometry.image_size, params.stem)


def hardly(num_classes: int) -> float:
    """Return the accuracy below which a network is hardly better than chance: twice chance, or less for few classes."""
    chance = 1 / num_classes
    return min(2 * chance, chance + (1 - chance) / 9)


def best_input(network: nn.Module, measure: Callable[[], np.ndarray]) -> np.ndarray:
    """Measure a loaded network, and let it see its input as suits it better.

    Whether torchvision's GoogLeNet and Inception shift the channels of their input is no part of a state dict. Those
    that were trained from the published weights do.
    """
    counts = measure()
    if getattr(network, "transform_input", None) is not False:
        return counts
    network.transform_input = True  # type: ignore[assignment]
    shifted = measure()
    if np.trace(shifted) > np.trace(counts):
        return shifted
    network.transform_input = False  # type: ignore[assignment]
    return counts


def _confusion(network: nn.Module, index: DatasetIndex, geometry: Geometry, runtime: Runtime) -> np.ndarray:
    """Count the validation images of each class (rows) by what a network names them (columns)."""
    classes = len(index.class_names)
    # Counted on the host at the end: counting on a GPU waits for it at each batch, and holds a table of all pairs.
    together = images_per_pass(network, geometry.image_size, runtime)
    batches = validation_batches(index, geometry, together, runtime)
    pairs = torch.cat([labels * classes + named for named, labels in predictions(network, batches, runtime)])
    return np.bincount(pairs.cpu().numpy(), minlength=classes * classes).reshape(classes, classes)


def check_order(weights: str, counts: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Refuse a loaded teacher that knows classes well, by the numbers of others: the order is another one.

    A part of the classes in another order leaves an accuracy that looks like a weak teacher's. So the assignment of
    outputs to classes is looked for that makes most answers right. Classes that most of their images leave for it,
    while hardly any stay, are out of order, where the class whose output they take has left it too: one that a similar
    class swallows has not.

    Args:
        counts: (classes, classes) validation images of each class by the output that names them.

    Raises:
        ConfigError: names such classes.
    """
    from scipy.optimize import linear_sum_assignment  # its import takes most of a second

    rows, best = linear_sum_assignment(counts, maximize=True)
    total = counts.sum(axis=1)
    leave = (counts[rows, best] > 0.5 * total) & (np.diagonal(counts) < 0.1 * total) & (total >= FEW_IMAGES)
    leave &= leave[best] & (rows != best)
    if leave.sum() >= 2:
        first, second = np.flatnonzero(leave)[:2]
        swaps = " and ".join(f"those of {class_names[i]} {class_names[best[i]]}" for i in (first, second))
        raise ConfigError(
            f"pretrain.checkpoint={weights}: {leave.sum()} of {len(class_names)} classes stand at another place in "
            f"this teacher than in the data (it calls the images {swaps.removeprefix('those ')}); set data.classes "
            "to the teacher's order"
        )


def _check_score(weights: str, teacher: Teacher) -> None:
    """Refuse a loaded teacher that knows nothing of these images: most often its classes stand in another order."""
    if teacher.top1 < hardly(teacher.num_classes):
        first, second = teacher.class_names[:2]
        raise ConfigError(
            f"pretrain.checkpoint={weights}: this teacher names {teacher.top1:.1%} of the validation images right, and "
            f"chance {1 / teacher.num_classes:.1%}; its classes may be in another order than the data's ({first}, "
            f"{second}, ...; see data.classes), or data.normalization and data.image_size not its own"
        )


def as_teacher(unit: Unit[Params], network: nn.Module, top1: float, curve: Iterable[dict[str, float]] = ()) -> Teacher:
    """Return a trained or loaded network as an artifact."""
    geometry = unit.params.geometry
    return Teacher(
        model=unit.params.model,
        stem=unit.params.stem,
        weights={name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()},
        class_names=unit.load("index").class_names,
        top1=top1,
        image_size=geometry.image_size,
        crop_ratio=geometry.crop_ratio,
        normalization=geometry.normalization,
        curve=tuple(curve),
        transform_input=bool(getattr(network, "transform_input", False)),
    )
