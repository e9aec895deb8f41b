"""Images of more than 8 bits keep their grey levels; what no rule covers, and files without an end, are refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import TWO_CLASSES, folder, png, refusal, retagged, saved, structs, table
from PIL import Image
from tables import each_of

from wmdd.data.decoding import decoder as decoding
from wmdd.data.decoding.decoder import decode, read_header
from wmdd.data.images import load_uint8
from wmdd.data.scan import build_index

BIG = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))


def tiff(values, **options):
    return saved(Image.fromarray(np.asarray(values)), "TIFF", **options)


def grey(values, dtype=np.float32):
    return tiff(np.array([values], dtype))


def levels(data):
    return np.asarray(decode(data, "x"))[0, :, 0].tolist()


def as_unsigned(data):
    """Return a TIFF of 32 bits without a sign, which Pillow does not write."""
    return retagged(data, {339: 1})


GREYS = {
    "float 0..1": (grey([0, 0.25, 0.75, 1]), [0, 64, 191, 255]),
    "float 0..255": (grey([0, 2.6, 99, 255]), [0, 3, 99, 255]),
    "float64 0..1": (grey([0, 0.5], np.float64), [0, 128]),
    "float mask": (grey([0, 1]), [0, 255]),
    "int32 of 8 bits": (grey([0, 7, 255], np.int32), [0, 7, 255]),
    "int32 of 16 bits": (grey([0, 257, 65535], np.int32), [0, 1, 255]),
    "uint32": (as_unsigned(grey([0, 257, 65535], np.int32)), [0, 1, 255]),
    "uint16": (grey([0, 257, 65535], np.uint16), [0, 1, 255]),
    "dark uint16": (grey([0, 200], np.uint16), [0, 1]),
    "big-endian uint16": (grey([0, 257, 65535], ">u2"), [0, 1, 255]),
    "PGM of 16 bits": (b"P5 3 1 65535\n" + np.array([0, 200, 65535], ">u2").tobytes(), [0, 1, 255]),
    "PFM": (b"Pf\n2 1\n-1.0\n" + np.array([0.25, 0.75], "<f4").tobytes(), [64, 191]),
    "BigTIFF": (grey([0.25, 0.75], np.float32), [64, 191]),
    "16-bit colour": (
        b"P6 1 1 65535\n" + np.array([257 * 9, 65535, 0], ">u2").tobytes(),
        [9],
    ),
}


@each_of("kind", GREYS)
def test_grey_levels_survive_decoding(kind):
    data, expected = GREYS[kind]
    if kind == "BigTIFF":
        data = tiff(np.array([[0.25, 0.75]], np.float32), big_tiff=True)
        assert data[2] == 43
    assert levels(data) == expected


@each_of(
    ("data", "message"),
    [
        (grey([0, 300]), "holds values up to 300; convert it to 8 or 16 bits"),
        (grey([0, 65535]), "holds values up to 65535; convert"),
        (grey([0, 0.5, 1.25]), "holds values up to 1.25; convert"),
        (grey([-1, 1]), "holds values from -1 up to 1; convert"),
        (grey([0, np.nan]), "holds values that are NaN or infinite; convert"),
        (grey([0, np.inf]), "holds values that are NaN or infinite; convert"),
        (grey([0, 70000], np.int32), "holds values up to 70000; convert"),
        (grey([-5, 9], np.int32), "holds values from -5 up to 9; convert"),
        (as_unsigned(grey([0, -1], np.int32)), "holds values up to 4294967295; convert"),
    ],
)
def test_values_that_no_rule_covers_are_refused(tmp_path, data, message):
    url = folder(tmp_path, *TWO_CLASSES)
    (tmp_path / "train/b/1.png").write_bytes(data)
    assert f"data.path={url}: train/b/1.png {message}" in refusal(lambda: build_index(url))


def test_float_images_keep_their_greys_in_a_set(tmp_path):
    for path in TWO_CLASSES:
        value = 0.25 if "/a/" in path else 0.75
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(tiff(np.full((16, 16), value, np.float32)))
    images = load_uint8(build_index(str(tmp_path)), "train", np.arange(4), size=16, crop_ratio=1.0)
    assert images.unique().tolist() == [64, 191]


@each_of("kind", ["LAB", "CMYK", "YCbCr"])
def test_other_colour_spaces_of_tiff_become_rgb(kind):
    plain = Image.new("RGB", (8, 8), (200, 40, 40))
    lab = Image.new("LAB", (8, 8), (120, 188, 165))
    image = decode(saved(lab if kind == "LAB" else plain.convert(kind), "TIFF"), "x")
    red, green, blue = np.asarray(image)[0, 0].tolist()
    assert red > 150
    assert max(green, blue) < 110


def test_first_frame_stands_for_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        data = saved(
            frames[0], kind, save_all=True, append_images=frames[1:], **{"lossless": True} if kind == "WEBP" else {}
        )
        assert np.asarray(decode(data, "x"))[0, 0].tolist() == [255, 0, 0]
        assert read_header(data, "x")[:2] == (8, 8)


ENDS = {
    "JPEG": {},
    "PNG": {},
    "GIF": {},
    "WEBP": {},
    "BMP": {},
    "TIFF": {},
    "TIFF in strips": {"compression": "tiff_lzw"},
    "PPM": {},
    "JPEG2000": {},
}


@each_of("kind", ENDS)
def test_cut_file_is_refused_by_the_index(kind):
    data = saved(BIG, kind.partition(" ")[0], **ENDS[kind])
    assert read_header(data, "whole.img")[:2] == (70, 90)
    message = refusal(lambda: read_header(data[:-200], "cut.img"))
    assert message.startswith("cut.img ")
    assert "; " in message


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_cut_images_are_counted_by_the_index(tmp_path, kind):
    cut = saved(BIG, "JPEG")[:-200]
    if kind == "folder":
        url, first = folder(tmp_path, *TWO_CLASSES), "train/b/0.png"
        for path in ("train/b/0.png", "val/b/0.png"):
            (tmp_path / path).write_bytes(cut)
        (tmp_path / "val/b/1.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    else:
        url, first = str(tmp_path), "train.parquet row 0"
        images = structs(cut, cut, b"version https://git-lfs.github.com/spec/v1\n", png(1))
        pq.write_table(table(images, pa.array([0, 1, 0, 1])), tmp_path / "train.parquet")
    message = refusal(lambda: build_index(url))
    assert f"data.path={url}: {first} is broken (image file is truncated (" in message
    assert message.endswith("(and 1 more like it, 1 with other faults); remove or replace it")


def test_jpeg_that_ends_in_zeros_is_refused():
    data = saved(BIG, "JPEG")
    half = len(data) // 2
    message = refusal(lambda: read_header(data[:half] + bytes(len(data) - half), "x"))
    assert message == "x is broken (it ends in zeros, as a download that was cut short); remove or replace it"


def test_flipped_bit_in_a_png_is_found_undecoded():
    data = bytearray(saved(BIG))
    data[len(data) // 2] ^= 4
    assert "x is broken" in refusal(lambda: read_header(bytes(data), "x"))


def test_large_whole_image_is_indexed_undecoded(monkeypatch):
    monkeypatch.setattr(decoding, "decode", None)
    for kind, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})):
        assert read_header(saved(BIG, kind, **options), "x")[:2] == (70, 90)


def test_bytes_behind_the_end_of_an_image_are_no_fault():
    for kind in ("JPEG", "PNG", "GIF", "WEBP"):
        data = saved(BIG, kind)
        for tail in (bytes(5), bytes(5000), b"trailer" * 1000):
            assert read_header(data + tail, "x")[:2] == (70, 90)
