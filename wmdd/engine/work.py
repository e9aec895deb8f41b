"""What a run is to do, counted before it starts: images that pass through networks, and bytes of store.

Counts follow the stages' functions: each function below counts what one unit of its stage does. Smaller work, such as
drawing views and writing reports, is not counted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from wmdd.config.base import Stem
from wmdd.config.distill import DistillConfig
from wmdd.config.students import RelabelConfig
from wmdd.engine.task import Plan, PlannedUnit, StageTask
from wmdd.method.batch_sizes import with_equal_steps
from wmdd.models.size import NetworkSize, network_size
from wmdd.stages.planning import PlannedSet

FORWARD, IMAGE_GRADIENT, TRAINING = 1, 2, 3  # operations, in those of forward passes: each gradient costs another
LABEL_BYTES = 4  # of a stored view, besides its logits
LABEL_BLOCK_BYTES = 3400  # of the file of a block, besides its rows
UNIT_BYTES = 800  # of a unit: its commit, and names in its file
RECORD_BYTES = 600  # of the losses of a class's images


@dataclass(frozen=True)
class Passes:
    """Images that pass through a network.

    Args:
        images: their number, with repetitions.
        steps: of an optimiser, or batches to label.
        each: `FORWARD`, `IMAGE_GRADIENT` or `TRAINING`.
    """

    network: NetworkSize
    images: int
    steps: int
    each: int

    @property
    def flops(self) -> float:
        """Floating-point operations of all."""
        return float(self.images) * self.each * self.network.flops


@dataclass(frozen=True, eq=False)
class Workload:
    """Counts the work of a plan's units."""

    plan: Plan

    @property
    def config(self) -> DistillConfig:
        """The plan's configuration."""
        return self.plan.config

    def passes(self, task: StageTask) -> list[Passes]:
        """List what passes through networks in a task; nothing in stages without networks."""
        items = [item for unit in task.units for item in _PASSES.get(task.stage, _none)(self, unit)]
        if task.stage == "recover":  # its classes share the steps
            items[1:] = [replace(item, steps=0) for item in items[1:]]
        return items

    def stored_bytes(self, task: StageTask) -> int:
        """Return the bytes that a task's units add to the store."""
        return sum(UNIT_BYTES + _BYTES[task.stage](self, unit) for unit in task.units)

    def snapshot_bytes(self, task: StageTask) -> int:
        """Return the bytes of the snapshot that the store holds while a task runs."""
        params = task.units[0].params
        if task.stage == "pretrain" and not params.weights:
            section = self.config.pretrain
            copies = 3 if section.optimizer in ("adamw", "rmsprop") else 2
            copies += bool(section.ema) + (section.keep == "best")
            return copies * self._network(params.model, params.stem).weight_bytes
        if task.stage == "evaluate":
            copies = 3 if self.config.evaluate.optimizer == "adamw" else 2  # muon keeps one average of its matrices
            copies += bool(self.config.evaluate.ema)
            return copies * self._network(params.student, self.config.evaluate.stem).weight_bytes
        if task.stage == "recover":  # images and Adam's two averages, float32
            return len(task.units) * self._image_bytes * 3 * 4
        return 0

    def teacher_batch_flops(self, task: StageTask) -> float:
        """Return the operations of a forward pass of a batch that a teacher is trained on."""
        params = task.units[0].params
        return float(self._network(params.model, params.stem).flops) * self.config.pretrain.batch_size

    def class_size(self, class_id: int) -> int:
        """Return the number of training images of a class."""
        return int(self._class_sizes[class_id])

    def decoded(self, task: StageTask) -> tuple[int, float]:
        """Return the real images that a task decodes, with repetitions, and their pixels.

        Validation images are decoded once, as a worker does that has room for them in memory or on its disk.
        """
        index, config = self.plan.index, self.config
        train = val = 0
        if task.stage == "select":
            train = sum(unit.params.ipc for unit in task.units)
        elif task.stage == "statistics":
            train = sum(self.class_size(unit.params.class_id) for unit in task.units)
        elif task.stage == "evaluate" or (task.stage == "pretrain" and task.units[0].params.weights):
            val = len(index.val)
        elif task.stage == "pretrain":
            train = len(index.train) * (1 if self._keeps_training_images() else config.pretrain.epochs)
            val = len(index.val)
        return train + val, train * self._pixels["train"] + val * self._pixels["val"]

    @functools.cached_property
    def _pixels(self) -> dict[str, float]:
        """Pixels of a mean image file of each split."""
        splits = {"train": self.plan.index.train, "val": self.plan.index.val}
        return {
            name: float(np.mean(split.height.astype(float) * split.width)) if len(split) else 0.0
            for name, split in splits.items()
        }

    def _keeps_training_images(self) -> bool:
        """Whether a worker keeps the decoded training images, and so decodes them once."""
        return self.plan.index.fits("train", self.config.data.image_size, self.config.runtime.memory_gib * 2**30)

    def products(self, task: StageTask) -> float:
        """Return the products of image, atom and feature in one step of a search for barycenters."""
        if task.stage != "barycenter":
            return 0.0
        images = sum(self.class_size(unit.params.class_id) for unit in task.units)
        atoms: int = task.units[0].params.ipc
        return float(images) * atoms * self._teacher.features

    def recovered_pixels(self, task: StageTask) -> float:
        """Return the pixels in all steps of the largest tensor batch of a task of recovery; 0 in other stages."""
        if task.stage != "recover":
            return 0.0
        images = len(task.units) * min(self.config.atoms, task.units[0].params.images_at_once or self.config.atoms)
        return float(images) * self.config.data.image_size**2 * self.config.recover.iterations

    @functools.cached_property
    def _class_sizes(self) -> np.ndarray:
        return np.bincount(self.plan.index.train.label, minlength=len(self.plan.index.class_names))

    @property
    def _image_bytes(self) -> int:
        """Bytes of the distilled images of a class, uint8."""
        return self.config.ipc * self._pixel_bytes

    @property
    def _pixel_bytes(self) -> int:
        """Bytes of an image, uint8."""
        return 3 * self.config.data.image_size**2

    @property
    def _teacher(self) -> NetworkSize:
        return self._network(self.config.pretrain.model, self.config.pretrain.stem)

    def _network(self, name: str, stem: Stem) -> NetworkSize:
        return network_size(name, len(self.plan.index.class_names), self.config.data.image_size, stem)

    def _set_size(self, unit: PlannedUnit) -> int:
        """Return the number of images that a unit labels or trains a student on."""
        return len(self._image_sets[unit.params.images])

    def _labels(self, unit: PlannedUnit) -> RelabelConfig:
        """Return how the set of a unit is labelled."""
        base = self.config.ipc * len(self._image_sets[unit.params.images].refs)
        return with_equal_steps(self.config.relabel, base, self._set_size(unit))

    @functools.cached_property
    def _image_sets(self) -> dict[str, PlannedSet]:
        return self.plan.image_sets

    @property
    def _teacher_validations(self) -> int:
        section = self.config.pretrain
        every = 1 if section.keep == "best" else max(1, section.epochs // 10)
        return math.ceil(section.epochs / every) * (2 if section.ema else 1)

    def _student_validations(self, unit: PlannedUnit) -> int:
        section = self.config.evaluate
        return math.ceil(self._labels(unit).epochs / section.val_every) * (2 if section.ema else 1)

    def _pretrain(self, unit: PlannedUnit) -> Iterator[Passes]:
        section, index = self.config.pretrain, self.plan.index
        network = self._network(unit.params.model, unit.params.stem)
        if unit.params.weights:
            yield Passes(network, len(index.val), 0, FORWARD)
            return
        images = section.epochs * len(index.train)
        yield Passes(network, images, section.epochs * math.ceil(len(index.train) / section.batch_size), TRAINING)
        yield Passes(network, self._teacher_validations * len(index.val), 0, FORWARD)

    def _statistics(self, unit: PlannedUnit) -> Iterator[Passes]:
        section, images = self.config.statistics, self.class_size(unit.params.class_id)
        passes = 1 if section.views_of_features == section.views else 2
        steps = math.ceil(images / section.batch_size)
        yield Passes(self._teacher, passes * images, passes * steps, FORWARD)

    def _recover(self, unit: PlannedUnit) -> Iterator[Passes]:
        section, params = self.config.recover, unit.params
        steps = section.iterations if params.steps is None else params.steps
        parts = math.ceil(self.config.atoms / (params.images_at_once or self.config.atoms))
        yield Passes(self._teacher, self.config.atoms * steps, steps * parts, IMAGE_GRADIENT)

    def _relabel(self, unit: PlannedUnit) -> Iterator[Passes]:
        section, epochs = self.config.relabel, unit.params.epochs
        images, batch_size = self._set_size(unit), self._labels(unit).batch_size
        for name in (self.config.pretrain.model, *section.teachers):
            network = self._network(name, self.config.pretrain.stem)
            yield Passes(network, epochs * images, epochs * math.ceil(images / batch_size), FORWARD)

    def _evaluate(self, unit: PlannedUnit) -> Iterator[Passes]:
        section, labels, index = self.config.evaluate, self._labels(unit), self.plan.index
        network = self._network(unit.params.student, section.stem)
        images = self._set_size(unit)
        steps = labels.epochs * math.ceil(images / labels.batch_size)
        yield Passes(network, labels.epochs * images, steps, TRAINING)
        if section.labels == "fixed":
            for name in (self.config.pretrain.model, *self.config.relabel.teachers):
                yield Passes(self._network(name, self.config.pretrain.stem), images, 0, FORWARD)
        ids = unit.params.class_ids
        scored = int(np.isin(index.val.label, ids).sum()) if ids else len(index.val)
        yield Passes(network, self._student_validations(unit) * scored, 0, FORWARD)

    def _teacher_bytes(self, unit: PlannedUnit) -> int:
        return self._network(unit.params.model, unit.params.stem).weight_bytes

    def _statistics_bytes(self, unit: PlannedUnit) -> int:
        moments = 2 * 4 * self._teacher.norm_channels
        return self.class_size(unit.params.class_id) * self._teacher.features * 4 + moments

    def _label_bytes(self, unit: PlannedUnit) -> int:
        images = self._set_size(unit)
        row = 2 * len(self.plan.index.class_names) + LABEL_BYTES
        return int(LABEL_BLOCK_BYTES + unit.params.epochs * images * row)


def _none(_workload: Workload, _unit: PlannedUnit) -> Iterator[Passes]:
    return iter(())


_PASSES: dict[str, Callable[[Workload, PlannedUnit], Iterator[Passes]]] = {
    "pretrain": Workload._pretrain,
    "statistics": Workload._statistics,
    "recover": Workload._recover,
    "relabel": Workload._relabel,
    "evaluate": Workload._evaluate,
}
_BYTES: dict[str, Callable[[Workload, PlannedUnit], int]] = {
    "pretrain": Workload._teacher_bytes,
    "statistics": Workload._statistics_bytes,
    "barycenter": lambda work, unit: unit.params.ipc * work._teacher.features * 4,
    "recover": lambda work, _unit: work._image_bytes + RECORD_BYTES,
    "select": lambda work, unit: unit.params.ipc * work._pixel_bytes,
    "relabel": Workload._label_bytes,
    "evaluate": lambda work, unit: 250 + 50 * work._student_validations(unit),  # a curve as JSON
}
