"""Where real images lie: an image folder, Parquet in the Hugging Face layout, or a set inside a Python package."""

from __future__ import annotations

import functools
import hashlib
import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wmdd.data.pixels import png
from wmdd.errors import DataError

BUILTIN = "builtin:"
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation", "valid", "test")}
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")
_JUNK = ("Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Listing:
    """The files of a set, before any is opened.

    Args:
        kind: ``folder``, ``parquet`` or ``builtin``.
        files: for each split, paths relative to the root, sorted.
        signature: changes when a file is added, removed, resized or touched.
    """

    kind: str
    files: dict[str, tuple[str, ...]]
    signature: str


def open_file_system(url: str) -> tuple[Any, str]:
    """Give the file system and root path of a URL."""
    fs, root = fsspec.core.url_to_fs(url)
    return fs, root


def list_files(url: str) -> Listing:
    """Find the files of a set.

    Raises:
        DataError: if the path is missing, or holds no set of a known layout.
    """
    if url.startswith(BUILTIN):
        return Listing("builtin", {"train": (url,), "val": ()}, hashlib.blake2b(url.encode()).hexdigest()[:32])
    fs, root = open_file_system(url)
    if not fs.exists(root):
        raise DataError(f"data.path={url}: there is no such folder or file; give an image folder or Parquet files")
    if fs.isfile(root):
        parent, _, name = root.rpartition("/")
        found = {name: fs.info(root)}
        root = parent
    else:
        found = {posixpath.relpath(path, root): info for path, info in fs.find(root, detail=True).items()}
    found = {path: info for path, info in found.items() if not _hidden(path)}
    parquet = sorted(path for path in found if path.endswith(".parquet"))
    files = _parquet_splits(parquet, url) if parquet else _folder_splits(sorted(found), url)
    facts = [
        (
            path,
            found[path].get("size"),
            str(found[path].get("mtime") or found[path].get("ETag") or found[path].get("created")),
        )
        for split in ("train", "val")
        for path in files[split]
    ]
    signature = hashlib.blake2b(json.dumps([url, facts]).encode(), digest_size=16).hexdigest()
    return Listing("parquet" if parquet else "folder", files, signature)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/")) or posixpath.basename(path) in _JUNK


def _parquet_splits(paths: list[str], url: str) -> dict[str, tuple[str, ...]]:
    def named(path: str, names: tuple[str, ...]) -> bool:
        file = posixpath.basename(path)
        folders = path.split("/")[:-1]
        return any(file.startswith((f"{name}-", f"{name}.", f"{name}_")) or name in folders for name in names)

    train = tuple(path for path in paths if named(path, SPLIT_NAMES["train"]))
    if not train and len(paths) == 1:
        return {"train": tuple(paths), "val": ()}
    if not train:
        raise DataError(
            f"data.path={url}: none of {len(paths)} Parquet files is named train-*; rename them, or give one file"
        )
    for name in SPLIT_NAMES["val"]:
        val = tuple(path for path in paths if named(path, (name,)) and path not in train)
        if val:
            return {"train": train, "val": val}
    return {"train": train, "val": ()}


def _folder_splits(paths: list[str], url: str) -> dict[str, tuple[str, ...]]:
    below = {name: tuple(p for p in paths if p.startswith(f"{name}/") and p.count("/") >= 2) for name in _all_names()}
    train = below["train"]
    if train:
        val = next((below[name] for name in SPLIT_NAMES["val"] if below[name]), ())
        return {"train": train, "val": val}
    classes = tuple(path for path in paths if "/" in path)
    if not classes:
        raise DataError(f"data.path={url}: holds no images; expected train/CLASS/*.jpg, CLASS/*.jpg or train-*.parquet")
    return {"train": classes, "val": ()}


def _all_names() -> tuple[str, ...]:
    return SPLIT_NAMES["train"] + SPLIT_NAMES["val"]


def class_of(path: str) -> str:
    """Give the class folder of an image file's relative path."""
    parts = path.split("/")
    return parts[1] if parts[0] in _all_names() and len(parts) > 2 else parts[0]


@functools.lru_cache(maxsize=1024)
def row_group_starts(url: str, file: str) -> np.ndarray:
    """Give the first row of each row group of a Parquet file, and the number of rows at the end."""
    with open_parquet(url, file) as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def open_parquet(url: str, file: str) -> pq.ParquetFile:
    """Open one of a set's Parquet files.

    Raises:
        DataError: if it is no Parquet file; names it.
    """
    fs, root = open_file_system(url)
    path = root if root.endswith(".parquet") and fs.isfile(root) else posixpath.join(root, file)
    try:
        return pq.ParquetFile(fs.open(path, "rb"))
    except (pa.ArrowInvalid, OSError) as exc:
        raise DataError(f"data.path={url}: {file} is no readable Parquet file ({_line(exc)}); restore it") from exc


def parquet_columns(schema: pa.Schema, where: str) -> tuple[str, str]:
    """Name the image and the label column.

    Raises:
        DataError: if one is missing; lists the columns found.
    """
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if image is None or label is None:
        wanted = f"{'/'.join(IMAGE_COLUMNS)} and {'/'.join(LABEL_COLUMNS)}"
        raise DataError(f"{where}: has the columns {', '.join(schema.names)}; expected {wanted}")
    return image, label


def parquet_class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Read the class names that Hugging Face `datasets` keeps in a schema, if they are there."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def read_row_group(parquet: pq.ParquetFile, group: int, file: str) -> tuple[list[bytes | None], list[Any]]:
    """Read the encoded images and labels of a row group."""
    image, label = parquet_columns(parquet.schema_arrow, file)
    table = parquet.read_row_group(group, columns=[image, label])
    column = table.column(image).combine_chunks()
    encoded = column.field("bytes") if pa.types.is_struct(column.type) else column
    return encoded.to_pylist(), table.column(label).to_pylist()


@functools.lru_cache(maxsize=2)
def builtin_images(url: str) -> tuple[list[bytes], np.ndarray, tuple[str, ...]]:
    """Give PNG bytes, labels and class names of a set that ships inside a package.

    Raises:
        DataError: for an unknown name.
    """
    if url != f"{BUILTIN}digits":
        raise DataError(f"data.path={url}: no such built-in set; there is {BUILTIN}digits")
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return [png(Image.fromarray(image)) for image in pixels], digits.target, tuple("0123456789")


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:160]


def iterate_builtin(url: str) -> Iterator[tuple[int, bytes, int]]:
    """Yield row, PNG bytes and label of every image of a built-in set."""
    images, labels, _ = builtin_images(url)
    for row, (data, label) in enumerate(zip(images, labels, strict=True)):
        yield row, data, int(label)
