"""Ideas about the statistics that images match; see `benchmarks.trials.ideas`."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.trials.loop import Loop, Pass, moments_of, passes, run_network, stacked
from wmdd.data.views import Views, apply_views, sample_views, view_matrices
from wmdd.method.artifacts import ClassStatistics
from wmdd.method.barycenter import free_support_barycenter
from wmdd.method.selection import by_loss
from wmdd.models.teacher import Teacher


class Groups(Loop):
    """Statistics and start of two groups of a class, clusters of its features, each matched by its own images."""

    parts = 2

    @classmethod
    def fits(cls, count: int) -> bool:
        return count % cls.parts == 0

    def grouped(self, statistics: ClassStatistics) -> list[np.ndarray]:
        """Return the rows of each group of a class."""
        features = statistics.features.numpy()
        rng = self.seeds.child("groups", statistics.class_id).numpy()
        centres = free_support_barycenter(features, self.parts, mass="uniform", rng=rng).support
        nearest = torch.cdist(statistics.features, torch.from_numpy(centres)).argmin(dim=1).numpy()
        return [np.flatnonzero(nearest == part) for part in range(self.parts)]

    def start(self) -> list[Tensor]:
        self.groups = [self.grouped(item) for item in self.real.statistics]
        starts = []
        for images, item, groups in zip(self.real.images, self.real.statistics, self.groups, strict=True):
            rows = []
            for number, group in enumerate(groups):
                rng = self.seeds.child("atoms", item.class_id, number).numpy()
                features = item.features.numpy()[group]
                rows.append(
                    group[free_support_barycenter(features, self.count // self.parts, mass="uniform", rng=rng).nearest]
                )
            starts.append(images[np.concatenate(rows)])
        return starts

    def targets_of(self, teacher: Teacher) -> list[tuple[Tensor, Tensor]]:
        pairs = zip(self.real.images, self.groups, strict=True)
        return stacked([moments_of(teacher, images[group]) for images, groups in pairs for group in groups])


class Groups5(Groups):
    """Statistics and start of five groups of a class."""

    parts = 5


class GroupsByLoss(Groups):
    """Statistics and start of two groups of a class by difficulty, the teacher's loss."""

    def grouped(self, statistics: ClassStatistics) -> list[np.ndarray]:
        return [np.sort(part) for part in np.array_split(by_loss(self.real.teacher, statistics), self.parts)]


class HalfGroups(Groups):
    """Half of the batch-norm term for two groups of a class, half for the class."""

    def targets_of(self, teacher: Teacher) -> list[tuple[Tensor, Tensor]]:
        self.whole = Loop.targets_of(self, teacher)
        return super().targets_of(teacher)

    def statistics_loss(self, inputs: list[Tensor], targets: list[tuple[Tensor, Tensor]]) -> Tensor:  # type: ignore[override]
        return (super().statistics_loss(inputs, targets) + super().statistics_loss(inputs, self.whole)) / 2


class HalfEachImage(Loop):
    """Half of the batch-norm term for each image by itself, half for the class."""

    def statistics_loss(self, inputs: list[Tensor], targets: list[tuple[Tensor, Tensor]]) -> Tensor:  # type: ignore[override]
        of_images = [tuple(part.repeat_interleave(self.count, dim=0) for part in layer) for layer in targets]
        whole = super().statistics_loss(inputs, targets)
        return (whole + super().statistics_loss(inputs, of_images)) / 2  # type: ignore[arg-type]


class FirstLayer(Loop):
    """Statistics of the first layer alone."""

    def layers(self, number: int) -> float:
        return float(len(self.targets[0]) * (number == 0))


class LastLayer(Loop):
    """Statistics of the last layer alone."""

    def layers(self, number: int) -> float:
        return float(len(self.targets[0]) * (number == len(self.targets[0]) - 1))


class Measured(Loop):
    """A measure of each layer's inputs, matched to its mean over parts of a class's real images, in addition."""

    weight = 100.0

    @abstractmethod
    def measure(self, values: Tensor) -> Tensor:
        """Return the measure of (n, channels, h, w) values, in one dimension."""

    def prepare(self) -> None:
        of_classes = []
        for images in self.real.images:
            parts = [[self.measure(layer) for layer in item.inputs] for item in passes(self.real.teacher, images)]
            of_classes.append([torch.stack(layer).mean(dim=0) for layer in zip(*parts, strict=True)])
        self.wanted = [torch.stack(layer) for layer in zip(*of_classes, strict=True)]

    def extra(self, step: int, seen: list[Pass]) -> Tensor | float:
        apart = []
        for values, wanted in zip(seen[0].inputs, self.wanted, strict=True):
            reached = torch.stack([self.measure(part) for part in values.unflatten(0, (self.classes, -1))])
            apart.append((reached - wanted).norm(dim=1) / wanted.norm(dim=1))
        return self.weight * torch.stack(apart).sum()


class Covariances(Measured):
    """Covariances of the channels of each layer's inputs, in addition to the variances."""

    def measure(self, values: Tensor) -> Tensor:
        rows = values.transpose(0, 1).flatten(1)
        centred = rows - rows.mean(dim=1, keepdim=True)
        return (centred @ centred.T / rows.shape[1]).flatten()


class Grid(Measured):
    """Means of each layer's inputs on a 4 x 4 grid of positions, in addition."""

    def measure(self, values: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(values, 4).mean(dim=0).flatten()


class ViewOfEachImage(Loop):
    """A view for each image instead of one for a class."""

    def all_views(self) -> Views:
        return Views.stack([self.views_of(self.steps, "views", number) for number in range(len(self.names))])


class OfViews(Loop):
    """Statistics of random views of the real images, cropped as recovery crops and rounded to 8 bits."""

    def targets_of(self, teacher: Teacher) -> list[tuple[Tensor, Tensor]]:
        of_classes = []
        for number, images in enumerate(self.real.images):
            views = self.views_of(len(images), "statistics", number)
            shown = sample_views(teacher.pixels.normalize(images), views, self.size)
            of_classes.append(moments_of(teacher, teacher.pixels.denormalize(shown)))
        return stacked(of_classes)


class OfViewsEach(ViewOfEachImage, OfViews):
    """Statistics of random views of the real images, and a view for each distilled image."""


class OfSameView(Loop):
    """Statistics of real images of the class, 64 in each step, under the view of the step."""

    sample = 64

    def seen(self, views: Views, step: int) -> Tensor:
        rows, columns = view_matrices(self.views_of_real(views, step), (self.size, self.size), self.size)
        rng = self.seeds.child("real", step).numpy()
        drawn = [
            images[rng.choice(len(images), min(self.sample, len(images)), replace=False)] for images in self.real.images
        ]
        real = apply_views(self.real.teacher.pixels.normalize(torch.stack(drawn)), rows, columns)
        with torch.no_grad():
            inputs = run_network(self.real.teacher, real.flatten(0, 1)).inputs
        by_class = [layer.unflatten(0, (self.classes, -1)) for layer in inputs]
        self.targets = [[(x.mean(dim=(1, 3, 4)), x.var(dim=(1, 3, 4), unbiased=False)) for x in by_class]]
        return super().seen(views, step)

    def views_of_real(self, views: Views, step: int) -> Views:
        """Return the view of each class's real images."""
        return self.views_at(views, step)


class OfSample(OfSameView):
    """Statistics of whole real images of the class, 64 in each step."""

    def views_of_real(self, views: Views, step: int) -> Views:
        box = torch.tensor([0, 0, self.size, self.size]).expand(self.classes, 4)
        return Views(box, torch.zeros(self.classes, dtype=torch.bool), torch.zeros(self.classes, 2, dtype=torch.int32))


class HalfOfSameView(OfSameView):
    """Half of the batch-norm term for the statistics of the step's view, half for those of whole images."""

    def prepare(self) -> None:
        self.whole = self.targets[0]

    def statistics_loss(self, inputs: list[Tensor], targets: list[tuple[Tensor, Tensor]]) -> Tensor:  # type: ignore[override]
        return (super().statistics_loss(inputs, targets) + super().statistics_loss(inputs, self.whole)) / 2
