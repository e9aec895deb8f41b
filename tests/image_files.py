"""Images, folders and Parquet files as the tests of reading need them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wmdd.errors import DataError

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
