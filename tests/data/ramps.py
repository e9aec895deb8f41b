"""Images whose values rise from left to right, and how they are decoded."""

import numpy as np

from wmdd.data.decoding.decoder import decode, read_header

RAMP = np.linspace(0, 1, 80)[None].repeat(70, 0)  # too large to be decoded for the index without need
COLOURS = np.stack([RAMP, RAMP / 2, 0 * RAMP], -1)


def grey(top, dtype):
    return (RAMP * top).astype(dtype)[..., None]


def first_row(data, **options):
    """The first row of a decoded image, whose header is read first, as for the index."""
    read_header(data, "x", **options)
    return np.asarray(decode(data, "x", **options))[0, :, 0].astype(int)
