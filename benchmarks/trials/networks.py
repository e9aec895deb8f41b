"""Ideas about the networks that images are made and labelled with; see `benchmarks.trials.ideas`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.trials.features import Joined
from benchmarks.trials.loop import Loop, Pass
from wmdd.config.recipes import recipe
from wmdd.data.views import apply_mix, draw_mix_box, draw_resized_crops, sample_views
from wmdd.method.losses import soft_label_loss
from wmdd.method.selection import by_loss
from wmdd.models.registry import build_model, normalized_by_batch
from wmdd.models.teacher import Teacher
from wmdd.training.optim import student_optimizer
from wmdd.training.schedules import student_schedule


class MoreTeachers(Loop):
    """Statistics and cross-entropy of three networks, two of them of five epochs."""

    def teachers(self) -> list[Teacher]:
        return [self.real.teacher, *self.real.others]


class WeakRecovery(Loop):
    """Recovery by a network of five epochs in place of the teacher, which labels."""

    def teachers(self) -> list[Teacher]:
        return self.real.others[:1]


class Snapshots(Loop):
    """Statistics and cross-entropy of the teacher and of its training's state after 3 and 6 of 10 epochs."""

    def teachers(self) -> list[Teacher]:
        return [self.real.teacher, *self.real.snapshots()]


class WeakFirst(Loop):
    """Recovery by a network of five epochs in the first half of the steps, and by the teacher in the second."""

    def teachers(self) -> list[Teacher]:
        return [self.real.others[0], self.real.teacher]

    def loss(self, step: int, views: Tensor) -> Tensor:
        number = 0 if step < self.steps // 2 else 1
        return self.loss_of([self.teachers()[number]], [self.targets[number]], step, views)


class SharedPlanTerm(Joined, MoreTeachers):
    """Three networks, one plan of transport in their joined features for start and atoms, with the Wasserstein term."""

    def joined(self, seen: Sequence[Pass]) -> Tensor:
        return torch.cat([item.features for item in seen], dim=1)


class SharedPlan(SharedPlanTerm):
    """Three networks, one plan of transport in their joined features for the start."""

    weight = 0.0


class StudentLike(Loop):
    """Statistics and cross-entropy of a network trained by the teacher's labels of real images.

    2,500 steps of 20 of all real images with the students' optimiser and crops, without CutMix.
    """

    student_steps, batch = 2500, 20

    def teachers(self) -> list[Teacher]:
        return [self._student]

    @functools.cached_property
    def _student(self) -> Teacher:
        teacher, options = self.real.teacher, recipe("cifar10-quick")
        with self.seeds.child("student").scoped():
            network = build_model(teacher.model, teacher.num_classes, teacher.image_size, stem=teacher.stem)
        labeller, even = normalized_by_batch(teacher.network), torch.ones(self.batch)
        optimizer = student_optimizer(options.evaluate, network)
        rate = student_schedule(options.evaluate, self.student_steps)
        for step in range(self.student_steps):
            for group in optimizer.param_groups:
                group["lr"] = rate(step) * group.get("lr_scale", 1.0)
            views = self.student_views(step, options.relabel.crop_scale)
            with torch.no_grad():
                labels = labeller(views)
            loss = soft_label_loss(network(views), labels, even, options.evaluate.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return replace(teacher, weights={name: value.detach() for name, value in network.state_dict().items()})

    def student_views(self, step: int, scale: tuple[float, float]) -> Tensor:
        """Draw a batch of real images under random views, (batch, 3, h, w) normalised."""
        rng = self.seeds.child("student", step).numpy()
        drawn = [self.real.images[number] for number in rng.integers(self.classes, size=self.batch)]
        images = torch.stack([images[rng.integers(len(images))] for images in drawn])
        views = draw_resized_crops(rng, self.batch, (self.size, self.size), scale, flip=True)
        return sample_views(self.real.teacher.pixels.normalize(images), views, self.size)


class StudentLikeMixed(StudentLike):
    """Statistics and cross-entropy of a network trained by the teacher's labels of real images mixed by CutMix."""

    def student_views(self, step: int, scale: tuple[float, float]) -> Tensor:
        views = super().student_views(step, scale)
        rng = self.seeds.child("student-mix", step).numpy()
        partner = torch.from_numpy(rng.permutation(self.batch))
        return apply_mix(views, partner, draw_mix_box(rng, self.size, 1.0))


class StudentsToo(StudentLike):
    """Statistics and cross-entropy of the teacher and of that network."""

    def teachers(self) -> list[Teacher]:
        return [self.real.teacher, *super().teachers()]


# What labels: the images are those of the plain loop.


class LabelsOfMore(Loop):
    """Labels of three networks, two of them of five epochs; the images are those of the plain loop."""

    labellers = "teacher and others"


class LabelsOfWeak(Loop):
    """Labels of one network of five epochs; the images are those of the plain loop."""

    labellers = "weak"


class EasiestLabels(LabelsOfMore):
    """Labels of three networks; real images that the teacher finds easiest, whole and not optimised."""

    tiles = 1

    def start(self) -> list[Tensor]:
        easiest = [by_loss(self.real.teacher, item)[: self.count] for item in self.real.statistics]
        return [images[rows] for images, rows in zip(self.real.images, easiest, strict=True)]

    def run(self) -> Tensor:
        return torch.cat(self.start())


class LabelsOfSnapshots(Loop):
    """Labels of the teacher and of its training's state after 3 and 6 of 10 epochs; the images are the plain loop's."""

    labellers = "teacher and snapshots"


# What pays at 1 image per class, together.


class SharedPlanLabels(SharedPlanTerm):
    """Three networks, one plan, the Wasserstein term, and labels of the three."""

    labellers = "teacher and others"
