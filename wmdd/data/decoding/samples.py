"""What the numbers of an image file mean, where Pillow ignores what the file says about them."""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

BITS, FORMAT = 258, 339  # tags of TIFF
_PHOTOMETRIC, _SAMPLES, _PLANAR = 262, 277, 284
_SIGNED = 2
# Raw modes in which Pillow inverts values itself, such as 1;I and L;2IR
_INVERTS = re.compile(r";\d*I")
_FORMATS = {1: "{} bits", 2: "{} bits with a sign", 3: "{}-bit floats", 5: "complex numbers", 6: "complex numbers"}


class Samples(NamedTuple):
    """How stored numbers become grey values."""

    signed: bool = False  # they have a sign, which Pillow does not read
    inverted: bool = False  # the greatest value is black
    factor: float = 1.0  # of FITS: a value is a number times the factor, plus the offset
    offset: float = 0.0

    def applied(self, numbers: np.ndarray) -> np.ndarray:
        """Return the values that stored numbers stand for, not yet inverted."""
        if self.signed:
            numbers = numbers.view(np.dtype(f"{numbers.dtype.byteorder.replace('|', '')}i{numbers.dtype.itemsize}"))
        if (self.factor, self.offset) == (1, 0):
            return numbers
        return numbers.astype(np.float64) * self.factor + self.offset


PLAIN = Samples()


def samples_of(image: Image.Image, data: bytes) -> Samples:
    """Return how to read the numbers of an opened image whose pixels are not loaded yet."""
    if image.format == "TIFF":
        inverted = tag(image, _PHOTOMETRIC) == 0 and not _INVERTS.search(_stored(image)[2])
        return Samples(signed=image.mode == "L" and tag(image, FORMAT) == _SIGNED, inverted=inverted)
    if image.format != "FITS":
        return PLAIN
    # 16 bits have a sign, and unsigned ones are stored with an offset.
    factor, offset = (_card(data[: _stored(image)[1]], name) for name in (b"BSCALE", b"BZERO"))
    return Samples(signed=image.mode.startswith("I;16"), factor=1.0 if factor is None else factor, offset=offset or 0.0)


def tag(image: Image.Image, number: int) -> int | None:
    """Return the first number of a TIFF's tag; None in other formats."""
    values = getattr(image, "tag_v2", {}).get(number)
    return int(np.ravel(values)[0]) if values is not None else None


def is_deep(image: Image.Image, data: bytes) -> bool:
    """Whether a channel has more than 8 bits in the file, whatever Pillow keeps of them."""
    if image.format == "PNG":
        return data[24:25] == b"\x10"
    return image.mode.startswith(("I", "F")) or (tag(image, BITS) or 8) > 8


def misread_planes(image: Image.Image) -> bool:
    """Whether a TIFF keeps its channels apart in a form that Pillow cannot read, or takes for another silently."""
    if tag(image, _PLANAR) != 2 or _stored(image)[0] != "raw":
        return tag(image, _PLANAR) == 2 and image.mode == "LAB"
    bits = tag(image, BITS) or 8
    is_whole = bits <= 8 or (bits == 32 and isinstance(image, TiffImageFile) and image.tag_v2.prefix == b"II")
    is_premultiplied = any(tile[3][0] == "a" for tile in getattr(image, "tile", ()))
    return not is_whole or is_premultiplied or image.mode in ("LA", "La", "PA", "YCbCr", "LAB")


def has_dropped_bands(image: Image.Image) -> bool:
    """Whether Pillow took the first of many channels for a grey image: but not of RGB with further channels."""
    return tag(image, _PHOTOMETRIC) in (0, 1) and (tag(image, _SAMPLES) or 1) > 2


def describe_tiff(data: bytes) -> tuple[str, str] | None:
    """Return the channels of a TIFF that Pillow does not open, and the remedy; None if its tags cannot be read."""
    try:
        head = data[: 16 if data[2:3] == b"+" or data[3:4] == b"+" else 8]
        tags = ImageFileDirectory_v2(head)
        source = io.BytesIO(data)
        source.seek(tags.next)
        tags.load(source)
        bits, kind = (int(np.ravel(tags.get(number, 1))[0]) for number in (BITS, FORMAT))
        channels = int(tags.get(_SAMPLES, 1))
    except Exception:  # damaged tags raise any type
        return None
    what = _FORMATS.get(kind, "{} bits of another kind").format(bits)
    if channels == 1:
        return f"holds {what} in a form that Pillow cannot read", "save it as PNG of 8 or 16 bits"
    planes = " in separate planes" if tags.get(_PLANAR) == 2 else ""
    remedy = "save it as RGB of 8 bits" if channels in (2, 3, 4) else "save three of them as RGB of 8 bits"
    return f"has {channels} channels of {what}{planes}, which Pillow cannot read", remedy


def has_planes(image: Image.Image, data: bytes) -> bool:
    """Whether a FITS file holds more planes than the first, which Pillow reads."""
    return (_card(data[: _stored(image)[1]], b"NAXIS3") or 1) > 1


def _stored(image: Image.Image) -> tuple[str, int, str]:
    """Return with which decoder, from which byte on and in which raw mode Pillow will read an opened image."""
    tiles = getattr(image, "tile", None)
    if not tiles:  # of a damaged file
        return "", 0, ""
    how = tiles[0][3]
    return tiles[0][0], tiles[0][2], str(how[0] if isinstance(how, tuple) and how else how)


def _card(header: bytes, name: bytes) -> float | None:
    """Return the last number of a name in a FITS header."""
    cards = (header[at : at + 80] for at in range(0, len(header), 80))
    values = [card[10:].partition(b"/")[0] for card in cards if card.startswith(name.ljust(8) + b"=")]
    try:
        return float(values[-1].decode("ascii").upper().replace("D", "E")) if values else None
    except ValueError:
        return None
