"""A plain loop of recovery that ideas are tried in, and what it needs of the real images.

`Loop` does what `wmdd.method.recovery` does, in fp32, with all classes in one batch and one teacher after another:
batch-norm statistics of each class, relative, and cross-entropy; no feature term. An idea is a subclass of it that
changes one thing (`benchmarks.trials.ideas`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wmdd.config.recovery import RecoverConfig
from wmdd.data.views import Views, apply_views, draw_resized_crops, view_matrices
from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.moments import Moments
from wmdd.method.tiles import encode, enlargement, join, split
from wmdd.models.probes import Probe
from wmdd.models.teacher import Teacher
from wmdd.seeding import SeedTree

PER_PASS = 250  # real images
Labellers = Literal["teacher", "teacher and others", "teacher and snapshots", "weak"]  # networks that label the images


@dataclass(frozen=True, eq=False)
class Real:
    """The real images, and what is known of them.

    Args:
        images: of each class, (n, 3, h, w) uint8.
        teacher: that labels, and whose statistics are matched.
        others: more networks, weaker ones.
        statistics: of the teacher, of each class.
        barycenters: k atoms of each class.
        snapshots: trains the teacher again, and returns some states of it.
    """

    images: list[Tensor]
    teacher: Teacher
    others: list[Teacher]
    statistics: list[ClassStatistics]
    barycenters: list[Barycenter]
    snapshots: Callable[[], list[Teacher]]


@dataclass(frozen=True, eq=False)
class Pass:
    """What a network returns for (n, 3, h, w) images: logits, features and the inputs of its batch-norm layers."""

    logits: Tensor
    features: Tensor
    inputs: list[Tensor]


def run_network(teacher: Teacher, images: Tensor) -> Pass:
    """Pass normalised images through a teacher's network."""
    with Probe(teacher.network, teacher.num_classes) as probe:
        logits, features, inputs = probe.run(images.contiguous(memory_format=torch.channels_last))
    return Pass(logits, features, inputs)


@torch.no_grad()
def passes(teacher: Teacher, images: Tensor) -> Iterator[Pass]:
    """Pass (n, 3, h, w) uint8 images through a teacher's network, some at a time."""
    for part in images.split(PER_PASS):
        yield run_network(teacher, teacher.pixels.normalize(part))


def moments_of(teacher: Teacher, images: Tensor) -> tuple[Moments, ...]:
    """Return the moments of each batch-norm layer over (n, 3, h, w) uint8 images."""
    merged: tuple[Moments, ...] = ()
    for item in passes(teacher, images):
        measured = Moments.of_layers(item.inputs)
        merged = tuple(map(Moments.merge, merged, measured)) if merged else measured
    return merged


class Loop:
    """The images of all classes, and the loop that optimises them.

    Attributes:
        classes, count: number of classes, and of images of each as networks see them (tiles are such).
        images: (classes * count, 3, s, s) float32 normalised, to be optimised; s is the side of a tile.
        targets: for each teacher and layer, the (parts, channels) mean and variance of each part of the images, in
            their order; parts are the classes, unless an idea has smaller ones.
    """

    iterations = 0  # 0: the recipe's
    crop: tuple[float, float] | None = None  # None: the recipe's
    tiles = 0  # 0: the recipe's
    labellers: Labellers = "teacher"

    def __init__(self, real: Real, section: RecoverConfig, seeds: SeedTree) -> None:
        atoms_per_image = section.tiles**2
        section = section.model_copy(update={"tiles": self.tiles or section.tiles})
        self.real, self.section, self.seeds = real, section, seeds
        self.steps = self.iterations or section.iterations
        self.size, self.classes = real.teacher.image_size, len(real.images)
        self.count = len(real.barycenters[0].support) // atoms_per_image * section.tiles**2
        self.names = torch.arange(self.classes).repeat_interleave(self.count)
        self.enlargement = enlargement(self.size, section.tiles)
        stored = encode(torch.cat(self.start()), section.tiles)
        self.images = split(real.teacher.pixels.normalize(stored), section.tiles).requires_grad_(True)
        self.bounds = real.teacher.pixels.bounds(self.images)
        self.targets = [self.targets_of(teacher) for teacher in self.teachers()]
        self.prepare()

    # What an idea may change.

    @classmethod
    def fits(cls, count: int) -> bool:
        """Whether the idea can be tried on classes of this number of images."""
        return True

    def start(self) -> list[Tensor]:
        """Return the real images that each class starts from, (count, 3, h, w) uint8."""
        return [images[item.nearest] for images, item in zip(self.real.images, self.real.barycenters, strict=True)]

    def teachers(self) -> list[Teacher]:
        """Return the networks whose statistics are matched."""
        return [self.real.teacher]

    def targets_of(self, teacher: Teacher) -> list[tuple[Tensor, Tensor]]:
        """Return the mean and variance of each layer, (parts, channels) each."""
        if teacher is self.real.teacher:
            return stacked([item.moments for item in self.real.statistics])
        return stacked([moments_of(teacher, images) for images in self.real.images])

    def prepare(self) -> None:
        """Compute what the idea needs, once."""

    def parameters(self) -> list[Tensor]:
        """Return what is optimised."""
        return [self.images]

    def current(self) -> Tensor:
        """Return the images of the parameters."""
        return self.images

    def layers(self, number: int) -> float:
        """Return the weight of a layer's statistics."""
        return 1.0

    def extra(self, step: int, seen: list[Pass]) -> Tensor | float:
        """Return a further loss of the outputs of the teachers."""
        return 0.0

    def after(self, step: int) -> None:
        """Change the images after a step."""

    # The loop.

    def run(self) -> Tensor:
        """Optimise; return the stored images, (classes * ipc, 3, h, w) uint8."""
        views = self.all_views()
        optimizer = torch.optim.Adam(self.parameters(), lr=self.section.lr, betas=self.section.betas)
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = self.section.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            loss = self.loss(step, self.seen(views, step))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch.clamp(self.images, *self.bounds, out=self.images)
                self.after(step)
        with torch.no_grad():
            final = torch.clamp(self.current(), *self.bounds)
        return self.real.teacher.pixels.denormalize(join(final, self.section.tiles))

    def all_views(self) -> Views:
        """Draw the views of all steps, (steps, classes)."""
        return Views.stack([self.views_of(self.steps, "views", number) for number in range(self.classes)])

    def loss(self, step: int, views: Tensor) -> Tensor:
        """Return the sum over classes of all terms."""
        return self.loss_of(self.teachers(), self.targets, step, views)

    def loss_of(
        self, teachers: list[Teacher], targets_of: list[list[tuple[Tensor, Tensor]]], step: int, views: Tensor
    ) -> Tensor:
        """Return the sum over classes of all terms of some networks, each with its targets."""
        seen = [run_network(teacher, views) for teacher in teachers]
        total = torch.zeros(()) + self.extra(step, seen)
        for outputs, targets in zip(seen, targets_of, strict=True):
            entropy = F.cross_entropy(outputs.logits, self.names) * self.classes
            total = total + self.section.ce_weight / len(seen) * entropy
            total = total + self.section.bn_weight / len(seen) * self.statistics_loss(outputs.inputs, targets)
        return total

    def statistics_loss(self, inputs: Sequence[Tensor], targets: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the relative distances to the targets, summed over layers; of parts of a class their mean."""
        losses = []
        for number, (values, (mean, var)) in enumerate(zip(inputs, targets, strict=True)):
            by_part = values.unflatten(0, (len(mean), -1))
            own_mean = by_part.mean(dim=(1, 3, 4))
            own_var = (by_part - own_mean[:, None, :, None, None]).square().mean(dim=(1, 3, 4))
            apart = (own_mean - mean).norm(dim=1) / mean.norm(dim=1) + (own_var - var).norm(dim=1) / var.norm(dim=1)
            losses.append(self.layers(number) * apart.sum() * self.classes / len(mean))
        return torch.stack(losses).sum()

    def seen(self, views: Views, step: int) -> Tensor:
        """Return the images under the views of a step, one of a class, (classes * count, 3, h, w)."""
        side = self.images.shape[-1]
        rows, columns = view_matrices(self.views_at(views, step), (self.size, self.size), self.size)
        rows, columns = rows @ self.enlargement, columns @ self.enlargement
        images = self.current().reshape(len(rows), -1, 3, side, side)
        return apply_views(images, rows, columns).flatten(0, 1)

    def views_at(self, views: Views, step: int) -> Views:
        """Return the views of a step, of each class or of each image."""
        return Views(views.box[step], views.flip[step], views.roll[step])

    def views_of(self, count: int, *names: str | int) -> Views:
        """Draw views as recovery does."""
        scale, size = self.crop or self.section.crop_scale, (self.size, self.size)
        rng = self.seeds.child(*names).numpy()
        return draw_resized_crops(rng, count, size, scale, flip=self.section.flip, roll_px=self.section.roll_px)


def stacked(moments: Sequence[tuple[Moments, ...]]) -> list[tuple[Tensor, Tensor]]:
    """Return (parts, channels) float32 means and variances of each layer."""
    return [
        (torch.stack([item.mean for item in layer]).float(), torch.stack([item.var for item in layer]).float())
        for layer in zip(*moments, strict=True)
    ]
