"""Numbers of TIFF and FITS are read as their headers say, or refused with the remedy; nothing is misread silently."""

import io
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from image_files import TWO_CLASSES, deep_png, fits, folder, raw_tiff, refusal, saved
from PIL import Image
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.decoding.decoder import decode, read_header
from wmdd.data.images import StreamedImages, load_uint8
from wmdd.data.index import DatasetIndex
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.data.set_notes import pixel_notes
from wmdd.engine.plan import make_plan
from wmdd.errors import ConfigError, DataError
from wmdd.storage.parquet import read_table
from wmdd.storage.store import ArtifactStore

RAMP = np.linspace(0, 1, 80)[None].repeat(70, 0)  # too large to be decoded for the index without need
COLOURS = np.stack([RAMP, RAMP / 2, 0 * RAMP], -1)


def grey(top, dtype):
    return (RAMP * top).astype(dtype)[..., None]


def first_row(data, **options):
    read_header(data, "x", **options)
    return np.asarray(decode(data, "x", **options))[0, :, 0].astype(int)


# TIFF

DARK = np.rint(RAMP[0] * 64).astype(int)


@each_of(
    "data",
    [
        raw_tiff(grey(64, np.uint8), 0),
        raw_tiff(grey(64, np.uint8), 0, separate=True),
        raw_tiff(grey(64 * 257, np.uint16), 0),
        raw_tiff(grey(64 / 255, np.float32), 0, 3),
    ],
    ids=["8 bits", "8 bits, plane", "16 bits", "floats"],
)
def test_white_is_zero_for_all_kinds_of_numbers(data):
    assert np.abs(first_row(data) - (255 - DARK)).max() <= 1


def test_black_is_zero_where_a_tiff_says_so_or_nothing():
    assert np.abs(first_row(raw_tiff(grey(64 * 257, np.uint16), 1)) - DARK).max() <= 1
    without = raw_tiff(grey(64 * 257, np.uint16), 0).replace(b"\x06\1\4\0\1\0\0\0", b"\x07\1\4\0\1\0\0\0")
    assert np.abs(first_row(without) - DARK).max() <= 1


def test_numbers_of_8_bits_with_a_sign_are_not_wrapped():
    assert first_row(raw_tiff(grey(127, np.int8), 1, 2)).max() == 127
    message = refusal(lambda: read_header(raw_tiff((RAMP * 255 - 128).astype(np.int8)[..., None], 1, 2), "x"))
    assert message == "x holds values from -128 up to 127; convert it to 8 or 16 bits"


SIXTEEN = (COLOURS * 65535).astype(np.uint16)
UNREAD = "is a TIFF in separate planes of a kind that Pillow cannot read; save it as PNG"
BANDS = np.zeros((8, 8, 13), np.uint16)


@each_of(
    ("data", "message"),
    [
        (
            raw_tiff(BANDS, extra=[0] * 12),
            "has 13 channels of 16 bits, which Pillow cannot read; save three of them as",
        ),
        (raw_tiff(BANDS, extra=[0] * 12, separate=True), "has 13 channels of 16 bits in separate planes, which Pillow"),
        (
            raw_tiff(BANDS[..., :5].astype(np.uint8)),
            "has 5 channels of 8 bits, which Pillow cannot read; save three of",
        ),
        (
            raw_tiff(BANDS, extra=[0] * 12, separate=True, deflate=True),
            "has 13 channels of 16 bits in separate planes, which Pillow cannot read; save three of them as RGB of 8",
        ),
        (raw_tiff((COLOURS * 255).astype(np.uint8), 8, separate=True), UNREAD),
        (raw_tiff((COLOURS * 255).astype(np.uint8), 8, separate=True, deflate=True), UNREAD),
        (raw_tiff(SIXTEEN, extra=[0, 0]), "has 3 channels of 16 bits, which Pillow cannot read; save it as RGB of 8"),
        (raw_tiff(COLOURS.astype(np.float32), 2, 3), "has 3 channels of 32-bit floats, which Pillow cannot read; save"),
        (raw_tiff(RAMP[..., None], 1, 3), "holds 64-bit floats in a form that Pillow cannot read; save it as PNG of 8"),
        (raw_tiff(SIXTEEN, 2, separate=True), UNREAD),
        (
            raw_tiff(SIXTEEN[..., :1], 1, separate=True),
            UNREAD,
        ),
        (
            raw_tiff((COLOURS[..., :2] * 255).astype(np.uint8), 1, extra=[2], separate=True),
            UNREAD,
        ),
    ],
    ids=[
        "13",
        "13 planes",
        "5",
        "13 compressed planes",
        "LAB planes",
        "LAB compressed planes",
        "3 not RGB",
        "float RGB",
        "float64",
        "16-bit planes",
        "16-bit plane",
        "grey and alpha",
    ],
)
def test_tiff_that_pillow_cannot_read_is_described(data, message):
    assert refusal(lambda: read_header(data, "x")).startswith(f"x {message}")


def test_planes_that_pillow_reads_are_read():
    colours = (COLOURS * 255).astype(np.uint8)
    for data in (
        raw_tiff(colours, 2, separate=True),
        raw_tiff(colours, 2, separate=True, deflate=True),
        raw_tiff(colours.astype(np.uint16) * 257, 2, separate=True, deflate=True),
        raw_tiff(np.concatenate([colours, colours], -1), 2, extra=[0, 0, 0]),  # RGB, and what a camera saw besides
    ):
        read_header(data, "x")
        np.testing.assert_array_equal(np.asarray(decode(data, "x")), colours)


def test_what_pillow_logs_is_not_printed(tmp_path):
    (tmp_path / "x.tif").write_bytes(raw_tiff(BANDS, extra=[0] * 12))
    script = (
        "import sys; from wmdd.data.decoding.decoder import read_header\n"
        "try: read_header(open(sys.argv[1], 'rb').read(), 'x')\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "x.tif"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("DataError\n", "")


# FITS


def test_fits_is_read_with_its_sign_and_its_offset():
    stored = (RAMP * 65535 - 32768).astype(np.int16)
    expected = np.rint(RAMP[0] * 255).astype(int)
    assert np.abs(first_row(fits(stored, BZERO=32768, BSCALE=1)) - expected).max() <= 1
    assert np.abs(first_row(fits((RAMP * 1000).astype(np.int16), BSCALE="1.0E-3")) - expected).max() <= 1
    message = refusal(lambda: read_header(fits(stored), "x"))
    assert message == "x holds values from -32768 up to 32767; convert it to 8 or 16 bits"


# Notes


def image_set(root, *images):
    """Write images in turn into two classes of both splits; return the set's URL."""
    for split in ("train", "val"):
        for place in range(4):
            path = root / split / "ab"[place % 2] / f"{place}.img"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images[place % len(images)])
    return str(root)


def noise(top, dtype, offset=0):
    return saved(Image.fromarray((RAMP * top + offset).astype(dtype)), "TIFF")


FAINT = {
    "12 of 16": (
        noise(4095, np.uint16),
        "8 of 8 images of 16 bits hold values from 0 to 4095 only, 16 of 255 grey levels once decoded; "
        "--data.bits 12 makes 4095 white",
    ),
    "8 of 16": (
        noise(255, np.uint16),
        "0 to 255 only, 1 of 255 grey levels once decoded; --data.bits 8 makes 255 white",
    ),
    "12 of 32": (noise(4000, np.int32), "0 to 4000 only, 16 of 255 .*; --data.bits 12 makes 4095 white"),
    "FITS": (fits((RAMP * 1000).astype(np.int16)), "0 to 1000 only, 4 of 255 .*; --data.bits 10 makes 1023 white"),
    "offset": (
        noise(3000, np.uint16, 32000),
        "from 32000 to 35000 only, 12 of 255 .*; stretch the values of all files",
    ),
    "floats": (noise(0.1, np.float32), "8 of 8 images of floats hold values from 0 to 0.1 only, 26 of 255 .*; stretch"),
    "truth values": (noise(1, np.int32), "8 of 8 images are decoded to values from 0 to 1 of 255 only; stretch"),
    "colours": (deep_png(COLOURS * 4095), "8 of 8 images are decoded to values from 0 to 15 of 255 only; stretch"),
    "small": (
        saved(Image.fromarray(np.eye(8, dtype=np.uint8))),
        "8 of 8 images are decoded to values from 0 to 1 of 255 only; stretch the values of all files alike",
    ),
}


@each_of("kind", FAINT)
def test_set_of_few_grey_levels_is_noted(tmp_path, kind):
    data, expected = FAINT[kind]
    index = build_index(image_set(tmp_path, data))
    (note,) = pixel_notes(DatasetIndex.from_bytes(index.to_bytes()))
    assert re.search(expected, note), note


def test_sets_that_use_their_range_are_not_noted(tmp_path):
    black = saved(Image.new("I;16", (80, 70)))
    full = [noise(top, dtype) for top, dtype in ((65535, np.uint16), (20000, np.uint16), (65535, np.uint16))]
    assert pixel_notes(build_index(image_set(tmp_path / "deep", black, *full))) == ()
    small = [saved(Image.new("RGB", (8, 8), (value,) * 3)) for value in (0, 200, 90, 255)]
    assert pixel_notes(build_index(image_set(tmp_path / "small", *small))) == ()


def test_frames_and_alpha_are_counted(tmp_path):
    frames = [Image.new("RGB", (70, 80), colour) for colour in ("red", "blue")]
    several = [
        saved(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "PNG", "TIFF", "MPO")
    ]
    index = build_index(image_set(tmp_path / "frames", *several))
    assert pixel_notes(index) == ("6 of 8 images have several frames or pages each, of which the first is read",)
    drawings = [saved(Image.new(mode, size, "white")) for mode in ("RGBA", "RGB") for size in ((80, 70), (8, 8))]
    index = build_index(image_set(tmp_path / "alpha", *drawings))
    (note,) = pixel_notes(index)
    assert note.startswith("2 of 8 images have alpha channels, dropped as torchvision does: ")  # the small are opaque
    cube = build_index(image_set(tmp_path / "cube", fits(np.stack([RAMP, RAMP]).astype(np.float32))))
    assert pixel_notes(cube) == ("8 of 8 images have several frames or pages each, of which the first is read",)


def test_earlier_index_has_no_notes_on_pixels(tmp_path):
    out = io.BytesIO()
    table = read_table(build_index(image_set(tmp_path, noise(255, np.uint16))).to_bytes())
    pq.write_table(table.drop_columns(["low", "high", "white", "several", "alpha"]), out)
    again = DatasetIndex.from_bytes(out.getvalue())
    assert (pixel_notes(again), len(again.train), again.bits) == ((), 4, None)


# data.bits


def test_bits_decide_white_for_all_readers(tmp_path):
    url = image_set(tmp_path, noise(4095, np.uint16), noise(4095, np.int32))
    index = DatasetIndex.from_bytes(build_index(url, bits=12).to_bytes())
    assert (index.bits, pixel_notes(index)) == (12, ())
    (note,) = pixel_notes(build_index(folder(tmp_path / "8", "a/0.png", "a/1.png", "b/0.png", "b/1.png"), bits=12))
    assert note == "data.bits=12 changes no image, as none is grey with more than 8 bits; leave it out"
    expected = np.rint(np.floor(RAMP[0] * 4095) / 4095 * 255)
    for place in range(4):
        image, _ = StreamedImages(index, "train", np.asarray)[place]
        np.testing.assert_array_equal(image[0, :, 0], expected)
    assert load_uint8(index, "val", np.arange(4), size=16, crop_ratio=1.0).max() > 200
    plain = build_index(url)
    assert index.digest("train") != plain.digest("train")
    assert index.class_digest(0) != plain.class_digest(0)


def test_bits_leave_8_bits_and_floats_as_they_are(tmp_path):
    for data in (saved(Image.fromarray(grey(200, np.uint8)[..., 0])), noise(1, np.float32)):
        np.testing.assert_array_equal(first_row(data, bits=12), first_row(data))


@each_of(
    ("data", "message"),
    [
        (
            noise(5000, np.uint16),
            "holds values from 0 up to 5000, which are not of 12 bits; leave out data.bits=12, or",
        ),
        (noise(5, np.int32, -3), "holds values from -3 up to 2, which are not of 12 bits; leave out"),
        (deep_png(COLOURS * 4095), "has several channels of 16 bits, of which Pillow keeps 8; leave out data.bits=12"),
    ],
    ids=["above", "negative", "colours"],
)
def test_values_of_more_bits_are_refused(tmp_path, data, message):
    url = folder(tmp_path, *TWO_CLASSES)
    (tmp_path / "train/b/1.png").write_bytes(data)
    assert f"data.path={url}: train/b/1.png {message}" in refusal(lambda: build_index(url, bits=12))


def test_bits_decide_the_scale_where_values_do_not(tmp_path):
    url = image_set(tmp_path, noise(100, np.int32), noise(4000, np.int32))
    with pytest.raises(DataError, match=r"cannot be told; convert them to 8 or 16 bits, or set data\.bits"):
        build_index(url)
    assert build_index(url, bits=12).bits == 12


def test_bits_enter_all_keys_and_their_default_none(tmp_path):
    store = ArtifactStore(str(tmp_path / "store"))
    network = {"pretrain.model": "convnet2_w16", "evaluate.students": ("convnet2_w16",), "barycenter.ipc": 1}
    url = image_set(tmp_path / "set", *(noise(top, np.uint16) for top in (4095, 4000, 3900, 3800)))
    config = override(recipe("cifar10-quick"), {"data.path": url, **network})
    assert "bits" not in config.data.for_key()
    plain, set_ = make_plan(config, store), make_plan(override(config, {"data.bits": 12}), store)
    assert any("--data.bits 12" in note for note in plain.index.notes)
    assert not any("--data.bits" in note for note in set_.index.notes)
    assert plain.index_ref != set_.index_ref
    for stage in ("pretrain", "statistics", "barycenter", "recover", "relabel", "evaluate"):
        assert not set(plain.refs(stage)) & set(set_.refs(stage))
    index, _ = load_index(override(config, {"data.bits": 12, "data.per_class": 1}), store, lambda done, total: None)
    assert index.bits == 12
    with pytest.raises(ConfigError, match=r"data\.bits=40"):
        override(config, {"data.bits": 40})
