"""Ideas that compare all images of a class with samples of its real features; see `benchmarks.trials.ideas`."""

from __future__ import annotations

import ot
import torch
from torch import Tensor

from benchmarks.trials.features import Features
from benchmarks.trials.loop import run_network
from wmdd.data.views import Views, apply_views, view_matrices


class Sliced(Features):
    """The sliced Wasserstein distance to samples of real features, in place of that to atoms."""

    sample, directions = 200, 64

    def distance(self, step: int, features: Tensor) -> Tensor:
        seeds = self.seeds.child("sliced", step)
        rng, width = seeds.numpy(), features.shape[-1]
        directions = torch.randn(width, self.directions, generator=seeds.torch())
        directions /= directions.norm(dim=0)
        apart = []
        for own, item in zip(features, self.real.statistics, strict=True):
            real = item.features[rng.choice(len(item.features), min(self.sample, len(item.features)), replace=False)]
            apart.append(ot.sliced_wasserstein_distance(own, real, projections=directions))
        # So that a shift of all features counts as much as in `Features`; other differences count less.
        return torch.stack(apart) * width**0.5


class SlicedStrong(Sliced):
    """Three times the sliced term."""

    weight = 30.0


class SameViews(Features):
    """The exact Wasserstein distance to features of 32 real images of the class under the views of the step."""

    sample = 32

    def seen(self, views: Views, step: int) -> Tensor:
        rows, columns = view_matrices(self.views_at(views, step), (self.size, self.size), self.size)
        rng = self.seeds.child("real", step).numpy()
        drawn = [images[rng.choice(len(images), self.sample, replace=False)] for images in self.real.images]
        real = self.real.teacher.pixels.normalize(torch.stack(drawn))
        with torch.no_grad():
            shown = apply_views(real, rows, columns).flatten(0, 1)
            self.real_features = run_network(self.real.teacher, shown).features.unflatten(0, (self.classes, -1))
        return super().seen(views, step)

    def distance(self, step: int, features: Tensor) -> Tensor:
        apart = []
        for own, real in zip(features, self.real_features, strict=True):
            costs = torch.cdist(own.detach().double(), real.double()).square()
            plan = torch.from_numpy(ot.emd([], [], costs.numpy())).float()
            apart.append((plan * (own[:, None] - real[None]).square().sum(dim=-1)).sum())
        return (torch.stack(apart) + 1e-12).sqrt()
