"""What a student learns from: stored soft labels, or class names and views that are drawn for it.

Both classes have the number of epochs and of steps in each, the batches of an epoch (this process's part of each, and
how many images all have), the mean loss of a batch, and what that loss has to learn itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wmdd.config.students import EvaluateConfig
from wmdd.data.augment import augmentation
from wmdd.distributed import ALONE, Ranks
from wmdd.method.artifacts import ImageSet
from wmdd.method.batch_sizes import batch_sizes
from wmdd.method.label_batches import LabelBatch, draw_epoch, replay, replayable, replayed_together
from wmdd.method.losses import soft_label_loss
from wmdd.method.soft_labels import SoftLabels, check_labels
from wmdd.method.temperatures import StudentTemperature, teacher_temperature
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit
from wmdd.training.trainer import part_rows

if TYPE_CHECKING:
    from wmdd.stages.plans.evaluate import Params


def own_part(batch: tuple[Tensor, ...], section: EvaluateConfig, runtime: Runtime, ranks: Ranks) -> tuple[Tensor, ...]:
    """Return this process's rows of a batch, of each part whose gradients are added up."""
    if ranks.size == 1:
        return batch
    rows = torch.tensor([row for part in part_rows(len(batch[0]), section.accumulate, ranks) for row in part])
    rows = runtime.send(rows)
    return tuple(tensor[rows] for tensor in batch)


class SoftLessons:
    """The teacher's logits of stored views (fast knowledge distillation), each image by its weight."""

    def __init__(
        self,
        section: EvaluateConfig,
        unit: Unit[Params],
        images: ImageSet,
        _seeds: SeedTree,
        runtime: Runtime,
        ranks: Ranks = ALONE,
    ) -> None:
        self._section, self._runtime, self._ranks = section, runtime, ranks
        self._labels = SoftLabels(unit.load("labels"))
        check_labels(self._labels, images)
        self._begin(0)
        self.learned = learned_by(section, runtime)
        self._geometry = unit.params.geometry
        self._pixels = replayable(images.images, self._labels.augment, self._geometry.pixels, runtime)
        # Mean 1 over the set, so that unequal weights change the balance of images and not the learning rate.
        self._weights = (images.mass / images.mass.mean()).to(runtime.device)
        self._names = images.labels.to(runtime.device)
        self.epochs, self.steps = self._labels.epochs, self._labels.batches
        self.sizes = [] if ranks.size == 1 else [len(self._labels[0, batch].images) for batch in range(self.steps)]
        self._next = -1
        self._read: Iterator[list[LabelBatch]] = iter(())

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield views, the teacher's logits, the images' weights and their classes; `loss` is of this epoch then."""
        self._begin(epoch)
        if epoch != self._next:
            self._read = self._runtime.ahead(self._from(epoch))
        done = 0
        while done < self.steps:
            batches = next(self._read)
            done += len(batches)
            # One copy to the device for all of these batches.
            rows = self._runtime.send(torch.cat([batch.images for batch in batches]))
            logits = self._runtime.send(torch.cat([batch.logits for batch in batches]))
            sizes = [len(batch.images) for batch in batches]
            numbers = (tensor.split(sizes) for tensor in (logits, self._weights[rows], self._names[rows]))
            shown = replay(batches, self._pixels, self._geometry.pixels, self._runtime)
            for batch in zip(shown, *numbers, strict=True):
                yield own_part(batch, self._section, self._runtime, self._ranks)
        self._next = epoch + 1

    def _begin(self, epoch: int) -> None:
        self._temperature = teacher_temperature(self._section, epoch)

    def _from(self, epoch: int) -> Iterator[list[LabelBatch]]:
        """Read the labels from an epoch on; on a GPU the next ones are read meanwhile."""
        places = itertools.product(range(epoch, self.epochs), range(self.steps))
        return replayed_together(map(self._labels.__getitem__, places), self._geometry.image_size)

    def loss(self, logits: Tensor, *rest: Tensor) -> Tensor:
        """Return the divergence at temperature or squared distance of logits, with a cross-entropy if it has weight."""
        teacher, weights, names = rest
        if self._section.loss == "mse":
            soft = ((logits.float() - teacher.float()).square().mean(dim=1) * weights).mean()
        else:
            soft = self._divergence(logits, teacher, weights)
        if not self._section.ce_weight:
            return soft
        return soft + self._section.ce_weight * F.cross_entropy(logits.float(), names)

    def _divergence(self, logits: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        is_fitted = isinstance(self.learned, StudentTemperature)
        fitted = self.learned(self._temperature) if is_fitted else None
        squared = self._section.temperature_squared
        return soft_label_loss(logits, teacher, weights, self._temperature, fitted, squared=squared)


def learned_by(section: EvaluateConfig, runtime: Runtime) -> nn.Module:
    """Return what the loss of soft labels learns: the student's temperature, or nothing."""
    is_fitted = section.loss == "kl" and section.student_temperature == "fitted"
    return StudentTemperature().to(runtime.device) if is_fitted else nn.Module()


class HardLessons:
    """Class names of views that are drawn for each student; no teacher."""

    def __init__(
        self,
        section: EvaluateConfig,
        unit: Unit[Params],
        images: ImageSet,
        seeds: SeedTree,
        runtime: Runtime,
        ranks: Ranks = ALONE,
    ) -> None:
        assert unit.params.views is not None
        self._views = unit.params.views
        self._geometry = unit.params.geometry
        self._pixels = replayable(images.images, "none", self._geometry.pixels, runtime)
        self._names = images.labels.to(runtime.device)
        self._section, self._ranks = section, ranks
        self._seeds, self._runtime = seeds.child("views"), runtime
        self.learned = nn.Module()
        self._change = augmentation(section.augment, self._geometry.pixels)
        self.epochs, self.sizes = self._views.epochs, batch_sizes(self._views, len(images))
        self.steps = len(self.sizes)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield views and their classes."""
        size = self._geometry.image_size
        drawn = draw_epoch(self._views, epoch, len(self._names), size, self._seeds)
        for batches in replayed_together(drawn, size):
            rows = self._runtime.send(torch.cat([batch.images for batch in batches]))
            names = self._names[rows].split([len(batch.images) for batch in batches])
            shown = replay(batches, self._pixels, self._geometry.pixels, self._runtime)
            # Every process changes whole batches, by the same draws.
            for batch in zip(map(self._change, shown), names, strict=True):
                yield own_part(batch, self._section, self._runtime, self._ranks)

    def loss(self, logits: Tensor, *rest: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(logits.float(), rest[0])
