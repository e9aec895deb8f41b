"""Further random changes of views and batches, all torchvision's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wmdd.data.normalization import Normalization
from wmdd.sections import Augment, PretrainConfig
from wmdd.seeding import SeedTree

Change = Callable[[Tensor], Tensor]


def augmentation(name: Augment, normalization: Normalization) -> Change:
    """Give a change of (n, 3, h, w) normalised images, each by itself, in 8 bits as torchvision wants them.

    It draws from torch's global generator, which the trainer seeds for each epoch.
    """
    if name == "none":
        return lambda images: images
    change = _each(name)
    return lambda images: normalization.normalize(change(normalization.denormalize(images)))


def augmented(pixels: Tensor, name: Augment, seed: int) -> Tensor:
    """Change (n, 3, h, w) uint8 images by the numbers of a seed; on the CPU, so that all devices see the same ones."""
    if name == "none":
        return pixels
    with SeedTree(seed).scoped():
        return _each(name)(pixels.cpu())


def _each(name: Augment) -> Change:
    import torchvision.transforms.v2 as v2

    change = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide, "augmix": v2.AugMix}[name]()
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

    kind = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[section.mix]
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = kind(num_classes=num_classes, alpha=section.mix_alpha)
    return change
