"""Further random changes of views and batches, all torchvision's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wmdd.config.sections import Augment, PretrainConfig
from wmdd.normalization import Normalization
from wmdd.seeding import SeedTree

Change = Callable[[Tensor], Tensor]


def augmentation(name: Augment, normalization: Normalization, strength: int = 0) -> Change:
    """Give a change of (n, 3, h, w) normalised images, each by itself, in 8 bits as torchvision wants them.

    It draws from torch's global generator, which the trainer seeds for each epoch.

    Args:
        strength: magnitude of RandAugment or severity of AugMix; 0 for torchvision's own.
    """
    if name == "none":
        return lambda images: images
    change = _each(name, strength)
    return lambda images: normalization.normalize(change(normalization.denormalize(images)))


def augmented(pixels: Tensor, name: Augment, seed: int) -> Tensor:
    """Change (n, 3, h, w) uint8 images by the numbers of a seed; on the CPU, so that all devices see the same ones."""
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
    """Give a change that erases a random part of some of (n, 3, h, w) images."""
    if not chance:
        return lambda images: images
    import torchvision.transforms.v2 as v2

    change = v2.RandomErasing(chance)
    return lambda images: torch.stack([change(image) for image in images])


def mixing(section: PretrainConfig, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Give what mixes a batch: (n, 3, h, w) images and (n,) labels to images and (n, classes) shares of classes."""
    if section.mix == "none":
        return lambda images, labels: (images, labels)
    import torchvision.transforms.v2 as v2

    kinds = {"mixup": (v2.MixUp,), "cutmix": (v2.CutMix,), "either": (v2.MixUp, v2.CutMix)}[section.mix]
    changes = [kind(num_classes=num_classes, alpha=section.mix_alpha) for kind in kinds]
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    change = changes[0] if len(changes) == 1 else v2.RandomChoice(changes)
    return change
