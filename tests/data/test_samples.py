"""Numbers of TIFF and FITS are read as their headers say, or refused with the remedy."""

import subprocess
import sys

import numpy as np
from image_files import fits, raw_tiff, refusal
from ramps import COLOURS, RAMP, first_row, grey
from tables import each_of

from wmdd.data.decoding.decoder import decode, read_header

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


def test_fits_is_read_with_its_sign_and_its_offset():
    stored = (RAMP * 65535 - 32768).astype(np.int16)
    expected = np.rint(RAMP[0] * 255).astype(int)
    assert np.abs(first_row(fits(stored, BZERO=32768, BSCALE=1)) - expected).max() <= 1
    assert np.abs(first_row(fits((RAMP * 1000).astype(np.int16), BSCALE="1.0E-3")) - expected).max() <= 1
    message = refusal(lambda: read_header(fits(stored), "x"))
    assert message == "x holds values from -32768 up to 32767; convert it to 8 or 16 bits"
