"""Ideas about the Wasserstein term, and about the spread of features; see `benchmarks.trials.ideas`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.trials.loop import Loop, Pass, passes
from wmdd.method.barycenter import free_support_barycenter


class Features(Loop):
    """The Wasserstein term: the root of the mean squared distance of features to the atoms."""

    weight = 10.0

    def prepare(self) -> None:
        self.atoms = torch.stack([item.support for item in self.real.barycenters])
        spreads = [
            (item.features - item.features.mean(dim=0)).square().sum(dim=1).mean() for item in self.real.statistics
        ]
        self.spread = torch.stack(spreads).sqrt()  # (classes,)

    def extra(self, step: int, seen: list[Pass]) -> Tensor | float:
        features = seen[0].features.unflatten(0, (self.classes, self.count))
        return self.weight * self.distance(step, features).sum()

    def distance(self, step: int, features: Tensor) -> Tensor:
        """Return the distance (classes,) of (classes, count, d) features, in units of the features."""
        return _rms(features - self.atoms)


def _rms(apart: Tensor) -> Tensor:
    return (apart.square().sum(dim=-1).mean(dim=1) + 1e-12).sqrt()


class OwnFeatures(Features):
    """The Wasserstein term to the start's own features: samples near the atoms, not means."""

    def prepare(self) -> None:
        super().prepare()
        pairs = zip(self.real.statistics, self.real.barycenters, strict=True)
        self.atoms = torch.stack([item.features[atoms.nearest] for item, atoms in pairs])


class Samples(Features):
    """The Wasserstein term to samples: in each step a real image that the plan sends to the atom."""

    def prepare(self) -> None:
        super().prepare()
        near = [
            torch.cdist(x.features, atoms).argmin(dim=1)
            for x, atoms in zip(self.real.statistics, self.atoms, strict=True)
        ]
        self.sent = [[torch.nonzero(part == atom).flatten() for atom in range(self.count)] for part in near]

    def distance(self, step: int, features: Tensor) -> Tensor:
        rng = self.seeds.child("samples", step).numpy()
        drawn = []
        for item, sent in zip(self.real.statistics, self.sent, strict=True):
            drawn.append(item.features[[int(rows[rng.integers(len(rows))]) for rows in sent]])
        return _rms(features - torch.stack(drawn))


class MovingPlan(Features):
    """The Wasserstein term, the plan between images and atoms computed again in each step."""

    def distance(self, step: int, features: Tensor) -> Tensor:
        ordered = []
        for own, atoms in zip(features.detach(), self.atoms, strict=True):
            _, columns = linear_sum_assignment(torch.cdist(own, atoms).square().numpy())
            ordered.append(atoms[columns])
        return _rms(features - torch.stack(ordered))


class Whitened(Features):
    """The Wasserstein term in features whitened by the covariance of the class."""

    def prepare(self) -> None:
        super().prepare()
        whitening = []
        for item in self.real.statistics:
            values, vectors = torch.linalg.eigh(torch.cov(item.features.T.double()))
            root = (values + 0.1 * values.mean()).rsqrt()
            white = (vectors * root) @ vectors.T
            spread = (
                ((item.features.double() - item.features.double().mean(dim=0)) @ white)
                .square()
                .sum(dim=1)
                .mean()
                .sqrt()
            )
            whitening.append((white / spread).float())
        self.whitening = torch.stack(whitening)

    def distance(self, step: int, features: Tensor) -> Tensor:
        return self.spread * _rms((features - self.atoms) @ self.whitening)


class WhitenedStrong(Whitened):
    """Three times the whitened term."""

    weight = 30.0


class WhitenedStronger(Whitened):
    """Ten times the whitened term."""

    weight = 100.0


class Joined(Features):
    """Features of several layers or networks, joined to one vector; the start is nearest to their atoms."""

    @abstractmethod
    def joined(self, seen: Sequence[Pass]) -> Tensor:
        """Return the vectors (n, d) of the outputs of the teachers."""

    def start(self) -> list[Tensor]:
        measured = [self._measured(images) for images in self.real.images]
        self.joined_spread = torch.stack([_spreads(item) for item in measured])
        starts, atoms = [], []
        for number, (images, item, spread) in enumerate(
            zip(self.real.images, measured, self.joined_spread, strict=True)
        ):
            rng = self.seeds.child("depths", number).numpy()
            found = free_support_barycenter((item / spread).numpy(), self.count, mass="uniform", rng=rng)
            starts.append(images[found.nearest])
            atoms.append(torch.from_numpy(found.support))
        self.joined_atoms = torch.stack(atoms)
        return starts

    def _measured(self, images: Tensor) -> Tensor:
        parts = zip(*(passes(teacher, images) for teacher in self.teachers()), strict=True)
        return torch.cat([self.joined(part) for part in parts])

    def extra(self, step: int, seen: list[Pass]) -> Tensor | float:
        joined = self.joined(seen).unflatten(0, (self.classes, self.count)) / self.joined_spread[:, None]
        return self.weight * (self.spread * _rms(joined - self.joined_atoms)).sum()


class Depths(Joined):
    """The Wasserstein term in features of all depths: pooled inputs of each layer, and the last features."""

    def joined(self, seen: Sequence[Pass]) -> Tensor:
        layers = [F.adaptive_avg_pool2d(layer, 2).flatten(1) for layer in seen[0].inputs]
        return torch.cat([*layers, seen[0].features], dim=1)


def _spreads(features: Tensor) -> Tensor:
    """Return for each feature its standard deviation times the root of their number, so that all weigh the same."""
    return (features.std(dim=0) + 1e-6) * features.shape[1] ** 0.5


class Diversity(Features):
    """Variance of a class's features along its 32 principal directions, in place of the Wasserstein term."""

    directions = 32

    def prepare(self) -> None:
        super().prepare()
        bases, targets = [], []
        for item in self.real.statistics:
            centred = item.features - item.features.mean(dim=0)
            _, _, basis = torch.pca_lowrank(centred, self.directions, center=False)
            bases.append(basis)
            targets.append((centred @ basis).square().mean(dim=0))
        self.bases, self.variances = torch.stack(bases), torch.stack(targets)

    def distance(self, step: int, features: Tensor) -> Tensor:
        along = (features - features.mean(dim=1, keepdim=True)) @ self.bases
        apart = along.square().mean(dim=1) - self.variances
        return self.spread * apart.norm(dim=1) / self.variances.norm(dim=1)


class DiversityStrong(Diversity):
    """Three times the term of variances along principal directions."""

    weight = 30.0
