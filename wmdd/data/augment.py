"""Further random changes of views and batches, all by torchvision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wmdd.config.base import Augment
from wmdd.config.teacher import PretrainConfig
from wmdd.normalization import Normalization
from wmdd.seeding import SeedTree

Change = Callable[[Tensor], Tensor]


def augmentation(name: Augment, normalization: Normalization, strength: int = 0) -> Change:
    """Return a function that changes each of (n, 3, h, w) normalised images, in 8 bits as torchvision needs them.

    It draws from torch's global generator, which the trainer seeds for each epoch.

    Args:
        strength: magnitude of RandAugment or severity of AugMix; 0 for torchvision's default.
    """
    if name == "none":
        return lambda images: images
    change = _each(name, strength)
    return lambda images: normalization.normalize(change(normalization.denormalize(images)))


def augmented(pixels: Tensor, name: Augment, seed: int) -> Tensor:
    """Return (n, 3, h, w) uint8 images changed by random numbers of a seed; on the CPU, equal for all devices."""
    if name == "none":
        return pixels
    with SeedTree(seed).scoped():
        return _each(name)(pixels.cpu())


def _each(name: Augment, strength: int = 0) -> Change:
    import torchvision.transforms.v2 as v2

    if name == "randaugment":
        change = v2.RandAugment(magnitude=strength) if strength else v2.RandAugment()
    elif name == "augmix":
        change = v2.AugMix(severity=strength) if strength else v2.AugMix()
    elif name == "trivialaugment":
        change = v2.TrivialAugmentWide()
    else:
        change = v2.AutoAugment(v2.AutoAugmentPolicy(name.removeprefix("autoaugment-")))
    return lambda pixels: torch.stack([change(image) for image in pixels])


def erasing(chance: float) -> Change:
    """Return a function that erases a random part of each of (n, 3, h, w) images with this chance."""
    if not chance:
        return lambda images: images
    import torchvision.transforms.v2 as v2

    change = v2.RandomErasing(chance)
    return lambda images: torch.stack([change(image) for image in images])


def mixing(section: PretrainConfig, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a function from (n, 3, h, w) images and (n,) labels to mixed images and (n, classes) shares of classes."""
    if section.mix == "none":
        return lambda images, labels: (images, labels)
    import torchvision.transforms.v2 as v2

    types = {"mixup": (v2.MixUp,), "cutmix": (v2.CutMix,), "either": (v2.MixUp, v2.CutMix)}[section.mix]
    mixtures = [mix(num_classes=num_classes, alpha=section.mix_alpha) for mix in types]
    mixture: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = v2.RandomChoice(mixtures)
    return mixture if len(mixtures) > 1 else mixtures[0]
