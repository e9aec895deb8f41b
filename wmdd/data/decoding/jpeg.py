"""JPEG files to tensors by TorchCodec, where it is installed: Pillow's pixels in a third to three quarters of its time.

Both call libjpeg-turbo. What is not a plain JPEG in colour or grey, or is damaged, is left to Pillow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_START, _EXIF = b"\xff\xd8\xff", b"Exif\0"


def jpeg_pixels(data: bytes) -> Tensor | None:
    """Return a JPEG's pixels as they are stored, (3, h, w) uint8; None for what Pillow is to decode, or to refuse."""
    decoder = _decoder() if is_plain(data) else None
    if decoder is None:
        return None
    try:
        return as_colour(decoder(data, mode="UNCHANGED"))
    except RuntimeError:
        return None


def is_plain(data: bytes) -> bool:
    """Whether a file begins as a JPEG, and says nothing of an orientation, by which TorchCodec would turn it."""
    return data.startswith(_START) and _EXIF not in data


def as_colour(pixels: Tensor) -> Tensor | None:
    """Return the (1 or 3, h, w) pixels of a JPEG with three channels; None for those of other colour models."""
    return pixels.expand(3, -1, -1) if len(pixels) in (1, 3) else None


@functools.cache
def _decoder() -> Callable[..., Any] | None:
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, RuntimeError, OSError):  # not installed, before 0.16, or built for another torch
        return None
    decode: Callable[..., Any] = decode_jpeg
    return decode


def decode_on_gpu(files: list[bytes], device: torch.device) -> list[Tensor]:
    """Return the (3, h, w) uint8 pixels of JPEG files in colour or grey, decoded by nvJPEG.

    Its pixels differ slightly from those of libjpeg. On another device than a GPU they are those of `jpeg_pixels`.

    Raises:
        RuntimeError: if one of the files cannot be decoded.
    """
    decoder = _decoder()
    assert decoder is not None, "TorchCodec is not installed"
    return list(decoder(files, mode="RGB", device=device)) if files else []


def has_torchcodec() -> bool:
    """Whether TorchCodec can be used."""
    return _decoder() is not None
