"""Values that tests of several folders share."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from wmdd.config.machines import RuntimeConfig
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree

CPU = Runtime.create(RuntimeConfig(device="cpu", precision="fp32", compile="off", train_threads=1))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=SeedTree(seed).torch())


def encoded(seed, size=(8, 8), mode="RGB", kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def write_folder(root, images):
    """Write {split/class/name: bytes}."""
    for path, data in images.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return str(root)


def small_set(root, classes=("ant", "bee"), per_class=3, splits=("train", "val")):
    names = [(s, c, i) for s in splits for c in classes for i in range(per_class)]
    return write_folder(root, {f"{s}/{c}/{i}.png": encoded(hash((s, c, i)) % 2**32) for s, c, i in names})


def write_parquet(path, data, labels, names=None, rows=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array(
        [{"bytes": b, "path": None} for b in data], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": images, "label": pa.array(labels)})
    if names:
        facts = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    pq.write_table(table, path, row_group_size=rows)


def image_set(root, *images):
    """Write images in turn into two classes of both splits; return the set's URL."""
    for split in ("train", "val"):
        for place in range(4):
            path = root / split / "ab"[place % 2] / f"{place}.img"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images[place % len(images)])
    return str(root)
