"""Decode image files: the header, whether the file is whole, and the pixels in 8-bit RGB."""

from __future__ import annotations

import io
import logging
from typing import NamedTuple

import numpy as np
from PIL import Image

from wmdd.data.decoding.faults import reason, refusal, refuse_preview, unopened
from wmdd.data.decoding.samples import (
    BITS,
    FORMAT,
    PLAIN,
    Samples,
    describe_tiff,
    has_dropped_bands,
    has_planes,
    is_deep,
    misread_planes,
    samples_of,
    tag,
)
from wmdd.errors import DataError

logging.getLogger("PIL").addHandler(logging.NullHandler())  # its errors are raised here, with the file's name

_ORIENTATION = 0x0112
_EXIF_MARKS = (b"eXIf", b"rofile type", b"com.adobe.xmp")  # where a PNG may keep it
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Images of fewer pixels are always decoded, which takes hardly longer than to read the file.
_SMALL_PX = 64 * 64
_OFFSETS, _COUNTS = (273, 324), (279, 325)  # of TIFF
# Formats that Pillow opens, and can decode only with other programs.
_FOREIGN = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")


Levels = tuple[float, float, int]  # the least and the greatest value in the file, and the one taken for white


class Header(NamedTuple):
    """What the header of an image file says."""

    height: int  # px, as stored
    width: int
    orientation: int  # of EXIF (1: upright, or none)
    scale: tuple[str, int] | None = None  # mode and the value taken for white, if the values alone decide it
    levels: Levels | None = None  # None if it was not decoded
    several: bool = False  # there are more frames or pages than the first, which is read
    alpha: bool = False  # there is a channel of transparency, which is dropped


def read_header(data: bytes, name: str, bits: int | None = None) -> Header:
    """Return the header of an image file; decode it only if it has more than 8 bits, or to see whether it is whole.

    Args:
        bits: as for `decode`.

    Raises:
        DataError: if it cannot be opened, its end is missing, or its values cannot be brought to 8 bits; names it.
    """
    with _open(data, name) as image:
        (width, height), several, levels = image.size, _has_several(image, data), None
        samples, deep = samples_of(image, data), is_deep(image, data)
        wanted = deep or samples != PLAIN or image.mode == "LAB" or width * height <= _SMALL_PX
        if wanted or not _has_end(image, data):
            rgb, levels = _loaded(image, samples, bits, name)
            width, height = rgb.size
            if image.format == "JPEG" and _ends_in_zeros(data):
                raise refusal(name, "is broken (it ends in zeros, as a download that was cut short)")
            if levels is None and deep and bits is not None:
                what = "has several channels of 16 bits, of which Pillow keeps 8"
                raise refusal(name, what, f"leave out data.bits={bits}")
            lows, highs = zip(*rgb.getextrema(), strict=True)
            levels = levels or (min(lows), max(highs), 255)
        is_open = image.mode == "F" or (image.mode == "I" and bits is None)
        scale = (image.mode, levels[2]) if is_open and levels and levels[1] else None  # black is black by every scale
        alpha = _has_alpha(image, levels is not None)
        return Header(height, width, _orientation(image, data), scale, levels, several, alpha)


def decode(data: bytes, name: str, orientation: int = 1, bits: int | None = None) -> Image.Image:
    """Decode an image file's bytes to RGB, and turn it upright if an orientation is given.

    Args:
        bits: that images use which have more than 8 in the file; None for all that the file has.

    Raises:
        DataError: if it is broken or truncated, or holds values that no rule brings to 8 bits; names it.
    """
    image = _open(data, name)
    return _turn(_loaded(image, samples_of(image, data), bits, name)[0], orientation)


def _loaded(image: Image.Image, samples: Samples, bits: int | None, name: str) -> tuple[Image.Image, Levels | None]:
    """Return an image in RGB, and the levels of one that is grey with more than 8 bits."""
    try:
        image.load()
        return _to_rgb(image, samples, bits, name)
    except DataError:
        raise
    except Exception as exc:  # Pillow's readers raise any type on damaged bytes, also RuntimeError and struct.error
        whole = image.format in _FOREIGN or "not available" in str(exc) or "not supported" in str(exc)
        raise refusal(name, f"{'cannot be decoded' if whole else 'is broken'} ({reason(exc)})") from exc


def turned(image: Image.Image) -> Image.Image:
    """Return an opened image, turned as its EXIF orientation asks for."""
    return _turn(image, _exif_orientation(image))


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _open(data: bytes, name: str) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
    except Exception as exc:  # as above
        raise unopened(data, name, exc) from exc
    if image.format == "TIFF":
        refuse_preview(image, data, name)
        if misread_planes(image):
            raise refusal(name, "is a TIFF in separate planes of a kind that Pillow cannot read", "save it as PNG")
        if has_dropped_bands(image) and (channels := describe_tiff(data)):
            raise refusal(name, *channels)
    return image


def _to_rgb(image: Image.Image, samples: Samples, bits: int | None, name: str) -> tuple[Image.Image, Levels | None]:
    is_deep_grey, levels = image.mode.startswith(("I", "F")), None
    if is_deep_grey or samples != PLAIN:
        values, (low, high, white) = _values(image, samples, bits, name)
        levels = (low, high, white) if is_deep_grey else None
        # Pillow's own conversion would clip everything above 255 to white.
        values = values.astype(np.float64)
        values = white - values if samples.inverted else values
        image = Image.fromarray(np.rint(values / (white / 255)).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours as straight to RGB, without Pillow's warning
    return image.convert("RGB"), levels


def _values(image: Image.Image, samples: Samples, bits: int | None, name: str) -> tuple[np.ndarray, Levels]:
    """Return the values of a grey image and its levels."""
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    if tag(image, FORMAT) == 1 and tag(image, BITS) == 32:
        values = values.view(np.uint32)  # Pillow reads them with a sign
    values = samples.applied(values)
    is_float = values.dtype.kind == "f"
    if is_float and not np.isfinite(values).all():
        raise refusal(name, "holds values that are NaN or infinite", "convert it to 8 or 16 bits")
    low, high = float(values.min()), float(values.max())
    whole = not is_float or bool((values == np.rint(values)).all())
    if bits is not None and image.mode.startswith("I"):
        if low < 0 or high >= 1 << bits or not whole:
            what = f"holds values from {low:.10g} up to {high:.10g}, which are not of {bits} bits"
            raise refusal(name, what, f"leave out data.bits={bits}, or give another")
        return values, (low, high, (1 << bits) - 1)
    white = _white(image, "F" if samples.factor != 1 else image.mode, low, high, whole=whole)
    if white is None:
        span = f"from {low:.10g} up to {high:.10g}" if low < 0 else f"up to {high:.10g}"
        raise refusal(name, f"holds values {span}", "convert it to 8 or 16 bits")
    return values, (low, high, white)


def _white(image: Image.Image, mode: str, low: float, high: float, *, whole: bool) -> int | None:
    """Return the value that is white; None if mode and values do not decide it."""
    if mode == "F":
        if low < 0 or high > 255 or (1 < high < 2 and not whole):  # 1.02 is 0 to 1 that was overshot, not 8 bits
            return None
        return 1 if high <= 1 else 255
    if mode.startswith("I;16"):
        white = 4095 if tag(image, BITS) == 12 else 65535
    elif mode == "I" and (high > 255 or image.format == "PPM"):  # whose reader scales to 16 bits
        white = 65535
    else:
        white = 255
    return white if low >= 0 and high <= white else None


def _has_several(image: Image.Image, data: bytes) -> bool:
    """Whether there are more frames or pages: not layers of a drawing, or a phone's previews."""
    try:
        if image.format == "FITS":
            return has_planes(image, data)
        return image.format not in ("MPO", "PSD") and bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame is no fault of the first
        return True


def _has_alpha(image: Image.Image, decoded: bool) -> bool:
    """Whether there is transparency; an image that is not decoded may be opaque all the same."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return not decoded or image.getextrema()[-1] != (255, 255)
    return "transparency" in image.info


def _has_end(image: Image.Image, data: bytes) -> bool:
    """Whether the bytes show that a file is whole; False also for formats whose end only decoding shows."""
    if image.format in ("JPEG", "MPO"):
        return b"\xff\xd9" in data[-1024:]  # cameras write more behind it
    if image.format == "PNG":
        return _has_good_chunks(data)
    if image.format == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    if image.format == "TIFF":
        return _has_strips(image, data)
    return False


def _ends_in_zeros(data: bytes) -> bool:
    """Whether zeros stand for the last pixels of a JPEG, which decoders take for grey without an error."""
    return data.endswith(bytes(512)) and b"\xff\xd9" not in data[data.rfind(b"\xff\xda") :]


def _has_good_chunks(data: bytes) -> bool:
    """Whether a PNG's checksums hold, up to its end mark; no pixel is decompressed."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
    except Exception:
        return False
    return b"IEND" in data[-1024:]


def _has_strips(image: Image.Image, data: bytes) -> bool:
    tags = getattr(image, "tag_v2", {})
    for offsets, counts in zip(_OFFSETS, _COUNTS, strict=True):
        if offsets in tags and counts in tags:
            ends = np.ravel(tags[offsets]).astype(np.int64) + np.ravel(tags[counts]).astype(np.int64)
            return len(ends) > 0 and int(ends.max()) <= len(data)
    return False


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns these itself
    if image.format == "PNG" and not any(mark in data for mark in _EXIF_MARKS):
        return 1  # Pillow would decode all of it to look for EXIF behind the pixels
    return _exif_orientation(image)


def _exif_orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF is none
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1
