"""JPEG files that TorchCodec decodes: the pixels of Pillow, and Pillow for the rest."""

import functools
import itertools
import sys

import numpy as np
import pytest
import torch
from image_files import images, saved
from PIL import Image
from tables import each_of

from wmdd.data.decoding import jpeg
from wmdd.data.decoding.decoder import decode
from wmdd.data.decoding.jpeg import jpeg_pixels
from wmdd.data.images import load_native_uint8, load_uint8
from wmdd.data.scan import build_index

TURNED = {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}
COLOUR = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
KINDS = {
    **{
        f"quality {quality}, subsampling {sub}, progressive {progressive}": (
            Image.fromarray(COLOUR),
            {"quality": quality, "subsampling": sub, "progressive": progressive},
        )
        for quality, sub, progressive in itertools.product((30, 95), (0, 1, 2), (False, True))
    },
    "grey": (Image.fromarray(COLOUR[..., 0]), {}),
    "odd size": (Image.fromarray(COLOUR[:17, :33]), {}),
    "one pixel": (Image.fromarray(COLOUR[:1, :1]), {}),
    "stored in RGB": (Image.fromarray(COLOUR), {"keep_rgb": True}),
    "restart markers": (Image.fromarray(COLOUR), {"restart_marker_blocks": 2}),
}


def pillow(data):
    return torch.from_numpy(np.array(decode(data, "x"))).permute(2, 0, 1)


@each_of("kind", KINDS)
def test_pixels_are_those_of_pillow(kind):
    image, options = KINDS[kind]
    data = saved(image, "JPEG", **options)
    assert torch.equal(jpeg_pixels(data), pillow(data))


PICTURE = Image.fromarray(COLOUR)
JPEG = saved(PICTURE, "JPEG")
LEFT = {
    "four channels": saved(Image.fromarray(np.dstack([COLOUR, COLOUR[..., :1]]), "CMYK"), "JPEG"),
    "cut": JPEG[: len(JPEG) // 2],
    "without its header": JPEG[:3] + JPEG[300:],
    "turned by EXIF": saved(Image.fromarray(COLOUR), "JPEG", **TURNED),
    "PNG": saved(Image.fromarray(COLOUR), "PNG"),
    "empty": b"",
}


@each_of("kind", LEFT)
def test_other_files_are_left_to_pillow(kind):
    assert jpeg_pixels(LEFT[kind]) is None


def test_set_is_decoded_alike_without_torchcodec(tmp_path, monkeypatch):
    for seed, path in enumerate(images("train", "val")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        square = Image.fromarray(np.roll(COLOUR[:48], seed))
        (tmp_path / path).write_bytes(saved(square, "JPEG", **(TURNED if seed % 2 else {})))
    used = []

    def read(decoder):
        monkeypatch.setattr("wmdd.data.images.jpeg_pixels", decoder)
        return [
            load(index, "train", np.arange(len(index.train)))
            for index, load in itertools.product(
                (build_index(str(tmp_path)), build_index(str(tmp_path), upright=True)),
                (
                    load_native_uint8,
                    functools.partial(load_uint8, size=48, crop_ratio=1),
                    functools.partial(load_uint8, size=48, crop_ratio=0.5),
                    functools.partial(load_uint8, size=32, crop_ratio=1),
                ),
            )
        ]

    fast = read(lambda data: used.append(data) or jpeg_pixels(data))
    for seen, expected in zip(fast, read(lambda data: None), strict=True):
        assert torch.equal(seen, expected)
    # Two of the loads decode without a crop: four images of the first index, and the two upright ones of the second.
    assert len(used) == 12


@pytest.fixture
def decoder_is_looked_for():
    jpeg._decoder.cache_clear()
    yield
    jpeg._decoder.cache_clear()


@pytest.mark.usefixtures("decoder_is_looked_for")
def test_pillow_decodes_where_torchcodec_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert jpeg_pixels(JPEG) is None


@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_file_has_the_pixels_of_pillow_or_none(progressive):
    whole, equal = saved(PICTURE, "JPEG", progressive=progressive), 0
    for place in range(700, len(whole) - 2, len(whole) // 40):
        data = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        if (pixels := jpeg_pixels(data)) is not None:
            assert torch.equal(pixels, pillow(data))
            equal += 1
    assert equal
