"""Images, folders and Parquet files as the tests of reading need them."""

import io
import json
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wmdd.errors import DataError
from wmdd.storage.parquet import read_table

CLASSES = ("cat", "dog")
HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(seed, size=(6, 8)):
    return saved(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)))


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def retagged(tiff, changes):
    """Return a TIFF with the values of some tags replaced, each of two bytes."""
    data = bytearray(tiff)
    start = int.from_bytes(data[4:8], "little") + 2
    for entry in range(start, start + 12 * int.from_bytes(data[start - 2 : start], "little"), 12):
        value = changes.get(int.from_bytes(data[entry : entry + 2], "little"))
        if value is not None:
            data[entry + 8 : entry + 10] = value.to_bytes(2, "little")
    return bytes(data)


def folder(root, *paths):
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(seed))
    return str(root)


def images(*roots, classes=CLASSES, count=2):
    """The paths of images of classes below each root."""
    return [f"{root}/{name}/{i}.png".lstrip("/") for root in roots for name in classes for i in range(count)]


def stored_again(index, change=lambda table: table):
    """Return an index as it is read back from the store, its table changed before."""
    out = io.BytesIO()
    pq.write_table(change(read_table(index.to_files()["index.parquet"])), out)
    return type(index).from_files(SimpleNamespace(read={"index.parquet": out.getvalue()}.__getitem__))


def counts(index):
    return index.class_names, len(index.train), len(index.val), index.val_held_out


def table(images, labels, names=("a", "b"), columns=("image", "label")):
    made = pa.table({columns[0]: images, columns[1]: labels})
    facts = {"info": {"features": {columns[1]: {"names": list(names or ()), "_type": "ClassLabel"}}}}
    return made.replace_schema_metadata({"huggingface": json.dumps(facts)}) if names else made


def structs(*data):
    return pa.array([{"bytes": one, "path": None} for one in data], HF)


def parquet(root, file="train-0.parquet", *, count=6, first_seed=0, names=("a", "b"), rows=2):
    data = structs(*(png(first_seed + i) for i in range(count)))
    pq.write_table(table(data, pa.array([i % 2 for i in range(count)]), names), root / file, row_group_size=rows)
    return str(root)


def refusal(call):
    with pytest.raises(DataError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


TWO_CLASSES = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in "ab" for i in range(2)]


def raw_tiff(pixels, photometric=1, sample_format=1, *, separate=False, extra=(), deflate=False):
    """Return a TIFF of (h, w, channels), of any kind of numbers, which Pillow does not write."""
    height, width, channels = pixels.shape
    planes = [pixels[..., channel] for channel in range(channels)] if separate else [pixels]
    parts = [plane.astype(plane.dtype.newbyteorder("<")).tobytes() for plane in planes]
    parts = [zlib.compress(part) for part in parts] if deflate else parts
    tags = {
        256: [width],
        257: [height],
        258: [8 * pixels.itemsize] * channels,
        259: [8 if deflate else 1],
        262: [photometric],
    }
    tags |= {273: [0] * len(parts), 277: [channels], 278: [height], 279: [len(part) for part in parts]}
    tags |= {284: [2 if separate else 1], 338: list(extra), 339: [sample_format] * channels}
    tags = {tag: values for tag, values in tags.items() if values}
    room = 8 + 2 + 12 * len(tags) + 4
    start = room + sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[273] = [start + sum(map(len, parts[:place])) for place in range(len(parts))]
    entries, behind = b"", b""
    for tag, values in tags.items():
        value = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            value, behind = struct.pack("<I", room + len(behind)), behind + value
        entries += struct.pack("<HHI", tag, 4, len(values)) + value
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + bytes(4) + behind + b"".join(parts)


def fits(numbers, **cards):
    """Return a FITS image of big-endian numbers."""
    bits = 8 * numbers.itemsize * (-1 if numbers.dtype.kind == "f" else 1)
    axes = {f"NAXIS{place}": length for place, length in enumerate(reversed(numbers.shape), 1)}
    facts = {"SIMPLE": "T", "BITPIX": bits, "NAXIS": numbers.ndim, **axes, **cards}
    header = "".join(f"{name:8}= {value:>20} / it".ljust(80) for name, value in facts.items()) + "END".ljust(80)
    blocks = header.encode(), numbers.astype(numbers.dtype.newbyteorder(">")).tobytes()
    return blocks[0].ljust(2880) + blocks[1].ljust(-(-len(blocks[1]) // 2880) * 2880, b"\0")


def deep_png(pixels):
    """Return a PNG of 16 bits a channel, (h, w, 3)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
