"""What the names of networks and weights say by themselves, without torch."""

from __future__ import annotations

import re

CONVNET_WIDTH = 128  # channels, unless a name has another number
MAX_WIDTH = 2**16  # far above what is used, and far below what torch cannot count


def convnet_shape(name: str) -> tuple[int, int] | None:
    """Return (depth, width) of ``convnetD`` and ``convnetD_wWIDTH``; None for the names of other networks."""
    match = re.fullmatch(r"convnet(\d)(?:_w([1-9]\d*))?", name)
    return (int(match[1]), int(match[2] or CONVNET_WIDTH)) if match else None


def vit_patches(name: str) -> tuple[str, int] | None:
    """Return (timm's name of the network, side of its patches in px) of ``vit_tiny_patch4_32`` and the like.

    timm names its ViTs by patches of 8, 14 or 16 px for images of 224 and more; at 32 px those see 4 to 16 patches.
    """
    match = re.fullmatch(r"((?:vit|deit3?)_\w+)_patch([1-9]\d*)_[1-9]\d*", name)
    return (f"{match[1]}_patch16_224", int(match[2])) if match else None


def is_sound_convnet(name: str, image_size: int) -> bool:
    """Whether a name is that of a ConvNet that has batch-norm layers and takes images of this size, px."""
    depth, width = convnet_shape(name) or (0, 0)
    return depth > 0 and image_size >> depth > 0 and width <= MAX_WIDTH


def is_file(source: str) -> bool:
    """Whether weights are a file, and not the name of published ones."""
    return ("/" in source or "." in source) and not re.fullmatch(r"\w+_Weights\.\w+", source)
