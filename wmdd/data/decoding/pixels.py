"""Conversion between PIL images and tensors without torchvision, whose import takes seconds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST_PX = 2**28  # of 3 bytes, such as a strip of 1 x 4096 px for networks of 256 px


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as (3, h, w) uint8."""
    import torch  # for seconds, which a process that only plans does without

    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_image(pixels: Tensor) -> Image.Image:
    """Return (3, h, w) uint8 as an RGB image."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def evaluation_crop(image: Image.Image, size: int, crop_ratio: float) -> Image.Image:
    """Return the centre of an image whose shorter side is resized to size / crop_ratio, as torchvision does it."""
    side = round(size / crop_ratio)
    width, height = image.size
    if min(width, height) != side:
        short = min(width, height)
        target = (side * width // short, side) if height == short else (side, side * height // short)
        if target[0] * target[1] > _LARGEST_PX:
            return _resized_centre(image, size, target)
        image = image.resize(target, Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image if image.size == (size, size) else image.crop((left, top, left + size, top + size))


def _resized_centre(image: Image.Image, size: int, target: tuple[int, int]) -> Image.Image:
    """Return the centre of an image as resized to a target that would not fit into memory."""
    scale = image.width / target[0], image.height / target[1]
    left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)
    right, bottom = min((left + size) * scale[0], image.width), min((top + size) * scale[1], image.height)
    box = left * scale[0], top * scale[1], right, bottom
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
