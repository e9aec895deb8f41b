"""Further random changes of views and batches, all torchvision's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wmdd.config import Augment, PretrainConfig
from wmdd.data.normalization import Normalization

Change = Callable[[Tensor], Tensor]


def augmentation(name: Augment, normalization: Normalization) -> Change:
    """Give a change of (n, 3, h, w) normalised images, each by itself, in 8 bits as torchvision wants them.

    It draws from torch's global generator, which the trainer seeds for each epoch.
    """
    if name == "none":
        return lambda images: images
    import torchvision.transforms.v2 as v2

    change = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide, "augmix": v2.AugMix}[name]()

    def apply(images: Tensor) -> Tensor:
        pixels = normalization.denormalize(images)
        return normalization.normalize(torch.stack([change(image) for image in pixels]))

    return apply


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
