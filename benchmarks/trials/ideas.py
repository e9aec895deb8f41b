"""Ideas for better images, each a change of `benchmarks.trials.loop.Loop`: what `benchmarks.trials` measures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from benchmarks.trials.features import (
    Depths,
    Diversity,
    DiversityStrong,
    Features,
    MovingPlan,
    OwnFeatures,
    Samples,
    Whitened,
    WhitenedStrong,
    WhitenedStronger,
)
from benchmarks.trials.loop import Loop
from benchmarks.trials.networks import (
    EasiestLabels,
    LabelsOfMore,
    LabelsOfSnapshots,
    LabelsOfWeak,
    MoreTeachers,
    SharedPlan,
    SharedPlanLabels,
    SharedPlanTerm,
    Snapshots,
    StudentLike,
    StudentLikeMixed,
    StudentsToo,
    WeakFirst,
    WeakRecovery,
)
from benchmarks.trials.pixels import Blur, Jpeg, JpegLast, Noise, NoiseJpeg, NoiseJpegLast, Pyramid, Residual
from benchmarks.trials.statistics import (
    Covariances,
    FirstLayer,
    Grid,
    Groups,
    Groups5,
    GroupsByLoss,
    HalfEachImage,
    HalfGroups,
    HalfOfSameView,
    LastLayer,
    OfSameView,
    OfSample,
    OfViews,
    OfViewsEach,
    ViewOfEachImage,
)
from benchmarks.trials.transport import SameViews, Sliced, SlicedStrong
from wmdd.data.views import Views, apply_mix, draw_mix_box, sample_views


class Plain(Loop):
    """The plain loop: statistics and cross-entropy, start nearest to the atoms, no Wasserstein term."""


class OtherSeed(Loop):
    """The plain loop with other views."""

    def views_of(self, count: int, *names: str | int) -> Views:
        return super().views_of(count, "other", *names)


class Steps30(Loop):
    """30 steps."""

    iterations = 30


class Steps100(Loop):
    """100 steps."""

    iterations = 100


class Steps1000(Loop):
    """1,000 steps."""

    iterations = 1000


class Steps2000(Loop):
    """2,000 steps."""

    iterations = 2000


class SmallCrops(Loop):
    """Crops from 0.08 of the area."""

    crop = (0.08, 1.0)


class DenseCrops(Loop):
    """Crops from a tenth to half of the area, never the whole image."""

    crop = (0.1, 0.5)


class DenserCrops(Loop):
    """Crops from a tenth to a quarter of the area."""

    crop = (0.1, 0.25)


class WholeViews(Loop):
    """Whole images, flipped and shifted, without crops."""

    crop = (1.0, 1.0)


class Mixed(Loop):
    """Each image has a box of another of its class, as students see images (CutMix)."""

    def seen(self, views: Views, step: int) -> Tensor:
        images = super().seen(views, step).unflatten(0, (self.classes, self.count))
        rng = self.seeds.child("mix", step).numpy()
        partner = torch.from_numpy(rng.permutation(self.count))
        box = draw_mix_box(rng, self.size, 1.0)
        return torch.cat([apply_mix(part, partner, box) for part in images])


class WhitenedMixed(Mixed, WhitenedStrong):
    """Three times the whitened term, and boxes of other images."""


class WhitenedMixedCrops(WhitenedMixed):
    """Three times the whitened term, boxes of other images, and crops from a quarter of the area."""

    crop = (0.25, 1.0)


class MixedCrops(Mixed):
    """Boxes of other images, and crops from a quarter of the area."""

    crop = (0.25, 1.0)


class DiversityMixedCrops(Mixed, Diversity):
    """Variance along principal directions, boxes of other images, and crops from a quarter of the area."""

    crop = (0.25, 1.0)


class WhitenedLabels(Whitened, LabelsOfMore):
    """The whitened term, and labels of three networks."""


# Students' gradients.


class Gradients(Loop):
    """After 200 steps, 100 that match the gradients of weak networks on real images (cosine distance)."""

    iterations = 300
    begin, batch = 200, 64

    def loss(self, step: int, views: Tensor) -> Tensor:
        if step < self.begin:
            return super().loss(step, views)
        rng = self.seeds.child("gradients", step).numpy()
        teacher = self.real.others[rng.integers(len(self.real.others))]
        network = teacher.network
        weights = {name: weight.detach().requires_grad_(True) for name, weight in network.named_parameters()}
        apart = []
        for number, own in enumerate(views.unflatten(0, (self.classes, self.count))):
            images = self.real.images[number][rng.integers(len(self.real.images[number]), size=self.batch)]
            drawn = self.views_of(self.batch, "real", step, number)
            real = sample_views(teacher.pixels.normalize(images), drawn, self.size)
            wanted = self._gradient(network, weights, real, number, create=False)
            found = self._gradient(network, weights, own, number, create=True)
            pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(found, wanted, strict=True) if a.ndim > 1]
            apart += [(1 - F.cosine_similarity(a, b, dim=1)).mean() for a, b in pairs]
        return torch.stack(apart).sum()

    def _gradient(
        self, network: torch.nn.Module, weights: dict[str, Tensor], images: Tensor, number: int, *, create: bool
    ) -> tuple[Tensor, ...]:
        logits = functional_call(network, weights, (images,))
        loss = F.cross_entropy(logits, torch.full((len(images),), number))
        return torch.autograd.grad(loss, list(weights.values()), create_graph=create)


IDEAS: dict[str, type[Loop]] = {
    "plain": Plain,
    "other-seed": OtherSeed,
    "groups-2": Groups,
    "groups-5": Groups5,
    "groups-by-loss": GroupsByLoss,
    "half-groups": HalfGroups,
    "more-teachers": MoreTeachers,
    "weak-recovery": WeakRecovery,
    "weak-first": WeakFirst,
    "snapshots": Snapshots,
    "shared-plan": SharedPlan,
    "shared-plan-term": SharedPlanTerm,
    "student-like": StudentLike,
    "student-like-mixed": StudentLikeMixed,
    "students-too": StudentsToo,
    "residual": Residual,
    "pyramid": Pyramid,
    "blur": Blur,
    "jpeg": Jpeg,
    "jpeg-last": JpegLast,
    "noise": Noise,
    "noise-jpeg": NoiseJpeg,
    "noise-jpeg-last": NoiseJpegLast,
    "small-crops": SmallCrops,
    "dense-crops": DenseCrops,
    "denser-crops": DenserCrops,
    "mixed": Mixed,
    "features": Features,
    "whitened": Whitened,
    "whitened-3": WhitenedStrong,
    "whitened-10": WhitenedStronger,
    "whitened-mixed": WhitenedMixed,
    "whitened-mixed-crops": WhitenedMixedCrops,
    "mixed-crops": MixedCrops,
    "diversity-mixed-crops": DiversityMixedCrops,
    "depths": Depths,
    "samples": Samples,
    "own-features": OwnFeatures,
    "moving-plan": MovingPlan,
    "sliced": Sliced,
    "sliced-3": SlicedStrong,
    "same-views": SameViews,
    "diversity": Diversity,
    "diversity-3": DiversityStrong,
    "covariances": Covariances,
    "half-each-image": HalfEachImage,
    "grid": Grid,
    "first-layer": FirstLayer,
    "last-layer": LastLayer,
    "gradients": Gradients,
    "steps-30": Steps30,
    "steps-100": Steps100,
    "steps-1000": Steps1000,
    "steps-2000": Steps2000,
    "views-of-images": ViewOfEachImage,
    "of-views": OfViews,
    "of-views-each": OfViewsEach,
    "of-same-view": OfSameView,
    "half-of-same-view": HalfOfSameView,
    "of-sample": OfSample,
    "whole-views": WholeViews,
    "labels-of-more": LabelsOfMore,
    "labels-of-weak": LabelsOfWeak,
    "labels-of-snapshots": LabelsOfSnapshots,
    "easiest-labels": EasiestLabels,
    "shared-plan-labels": SharedPlanLabels,
    "whitened-labels": WhitenedLabels,
}
