"""The only place that knows channel means and deviations."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Channel constants that map pixels in [0, 1] to the input of a network: (pixel - mean) / std."""

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalize(self, images: Tensor) -> Tensor:
        """Return (n, 3, h, w) uint8 as normalised float32."""
        mean, std = _constants(self, images.device)
        # In place: new memory costs more than the arithmetic, and a division of integers converts them one by one.
        return images.to(mean, copy=True).div_(255).sub_(mean).div_(std)

    def denormalize(self, images: Tensor) -> Tensor:
        """Return normalised float32 as rounded uint8 (truncation would darken every image)."""
        mean, std = _constants(self, images.device)
        return ((images.detach() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised values of black and white, each (1, 3, 1, 1)."""
        mean, std = _constants(self, like.device)
        return -mean / std, (1 - mean) / std


@functools.lru_cache(maxsize=32)
def _constants(pixels: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (1, 3, 1, 1) constants; kept, because a copy to a GPU for each batch makes the host wait for it."""
    shape = (1, 3, 1, 1)
    return torch.tensor(pixels.mean, device=device).view(shape), torch.tensor(pixels.std, device=device).view(shape)


NORMALIZATIONS = {
    item.name: item
    for item in (
        Normalization("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Normalization("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        Normalization("cifar100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        Normalization("tiny-imagenet", (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
        Normalization("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        Normalization("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    )
}
