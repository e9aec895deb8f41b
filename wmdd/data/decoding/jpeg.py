"""Decode JPEG files by TorchCodec, if it is installed: Pillow's pixels in a third to three quarters of its time.

Both call libjpeg-turbo. What is not a plain JPEG in colour or grey, or is damaged, is left to Pillow.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

_START = b"\xff\xd8\xff"
_EXIF = (b"II*\0", b"MM\0*")  # how the data of EXIF begin, whatever stands before them


def jpeg_pixels(data: bytes) -> Tensor | None:
    """Return a JPEG's pixels as they are stored, (3, h, w) uint8; None if Pillow has to decode or refuse the file."""
    decoder = _decoder() if is_plain(data) else None
    if decoder is None:
        return None
    try:
        return _as_colour(decoder(data, mode="UNCHANGED"))
    except RuntimeError:
        return None


def is_plain(data: bytes) -> bool:
    """Whether a file begins as a JPEG, and has no EXIF metadata, whose orientation TorchCodec would apply."""
    return data.startswith(_START) and not any(mark in data for mark in _EXIF)


def _as_colour(pixels: Tensor) -> Tensor | None:
    """Return grey or colour pixels, (1 or 3, h, w), with three channels; None for another number of channels."""
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

    Its pixels differ from those of libjpeg, most at edges between colours, because it enlarges the channels of colour
    in another way. On a CPU they equal those of `jpeg_pixels`.

    Raises:
        RuntimeError: if TorchCodec is not installed, or one of the files cannot be decoded; it does not say which.
    """
    decoder = _decoder()
    if decoder is None:
        raise RuntimeError("TorchCodec is not installed")
    return list(decoder(files, mode="RGB", device=device)) if files else []


def suits_gpu(data: bytes) -> bool:
    """Whether a file is a plain JPEG in grey, or in the colour model that nvJPEG decodes: not RGB or CMYK."""
    if not is_plain(data):
        return False
    with Image.open(io.BytesIO(data)) as image:
        is_ycbcr = "jfif" in image.info or image.info.get("adobe_transform") == 1
        return image.mode == "L" or (image.mode == "RGB" and is_ycbcr)
