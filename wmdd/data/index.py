"""The index of a real set: every image's place, class, size and content digest; each file is read once to make it."""

from __future__ import annotations

import difflib
import functools
import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from wmdd.data.sources import (
    Listing,
    class_of,
    iterate_builtin,
    list_files,
    open_file_system,
    open_parquet,
    parquet_class_names,
    parquet_columns,
    read_row_group,
    row_group_starts,
)
from wmdd.errors import DataError
from wmdd.types import Files

_COLUMNS = ("file", "row", "label", "height", "width", "digest")
_KINDS = (np.int32, np.int64, np.int32, np.int32, np.int32, np.uint64)


@dataclass(frozen=True, eq=False)
class Split:
    """The images of a split, in a fixed order.

    Args:
        files: paths relative to the set's root.
        file: (n,) int32, which file holds the image.
        row: (n,) int64, row inside a Parquet file, -1 for an image file.
        label: (n,) int32 class ids.
        height, width: (n,) int32 px, from the header.
        digest: (n,) uint64 of the encoded bytes.
    """

    files: tuple[str, ...]
    file: np.ndarray
    row: np.ndarray
    label: np.ndarray
    height: np.ndarray
    width: np.ndarray
    digest: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def of_class(self, class_id: int) -> np.ndarray:
        """Give the positions of a class's images, ascending."""
        return np.flatnonzero(self.label == class_id)

    def uniform_size(self) -> tuple[int, int] | None:
        """Give (height, width) when all images share it."""
        if len(self) and (self.height == self.height[0]).all() and (self.width == self.width[0]).all():
            return int(self.height[0]), int(self.width[0])
        return None

    def take(self, rows: np.ndarray) -> Split:
        """Keep some positions, in the given order."""
        return Split(self.files, *(getattr(self, name)[rows] for name in _COLUMNS))


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """A real set, ready to be read.

    Args:
        url: its root.
        kind: ``folder``, ``parquet`` or ``builtin``.
        class_names: class ids are positions in it.
        val_held_out: the validation images were taken from the training split, because there is no other.
    """

    url: str
    kind: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    val_held_out: bool

    def class_digest(self, class_id: int) -> str:
        """Hash one class's training images and name; no other class can change it."""
        part = self.train.take(self.train.of_class(class_id))
        return _hash(self.class_names[class_id].encode(), part.digest.tobytes())

    def digest(self, split: Literal["train", "val"]) -> str:
        """Hash a split: names, labels and contents, in order."""
        part = self.train if split == "train" else self.val
        return _hash(json.dumps(self.class_names).encode(), part.label.tobytes(), part.digest.tobytes())

    def to_files(self) -> dict[str, bytes]:
        """Give one Parquet file."""
        return {"index.parquet": self.to_bytes()}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read the file."""
        return cls.from_bytes(files.read("index.parquet"))

    def to_bytes(self) -> bytes:
        """Write a Parquet table of both splits."""
        columns = {name: np.concatenate([getattr(self.train, name), getattr(self.val, name)]) for name in _COLUMNS}
        facts = {name: getattr(self, name) for name in ("url", "kind", "class_names", "val_held_out")}
        facts |= {"train": len(self.train), "train_files": self.train.files, "val_files": self.val.files}
        table = pa.table(columns).replace_schema_metadata({"wmdd": json.dumps(facts)})
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd")
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        table = pq.read_table(io.BytesIO(data))
        facts = json.loads(table.schema.metadata[b"wmdd"])
        columns = [table.column(name).to_numpy().astype(kind) for name, kind in zip(_COLUMNS, _KINDS, strict=True)]
        train = Split(tuple(facts["train_files"]), *(column[: facts["train"]] for column in columns))
        val = Split(tuple(facts["val_files"]), *(column[facts["train"] :] for column in columns))
        return cls(facts["url"], facts["kind"], tuple(facts["class_names"]), train, val, facts["val_held_out"])


def build_index(
    url: str,
    *,
    classes: tuple[str, ...] | None = None,
    val_fraction: float = 0.2,
    listing: Listing | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DatasetIndex:
    """Read every image of a set once: digest its bytes and check its header, in parallel.

    Args:
        url: as for `list_files`.
        classes: keep only these, in this order.
        val_fraction: held out per class when there is no validation split; chosen by content digest, so that neither
            a seed nor a file name decides.
        on_progress: told images done and the total (0 while unknown).

    Raises:
        DataError: one line naming what is wrong, where, and the remedy.
    """
    listing = listing or list_files(url)
    names, raw = _scan(url, listing, on_progress)
    if not raw["train"]:
        raise DataError(f"data.path={url}: holds no training images; expected train/CLASS/*.jpg or train-*.parquet")
    split = {name: _split(listing.files[name], rows) for name, rows in raw.items()}
    names, split = _keep(url, classes, names, split)
    train, val = split["train"], split["val"]
    _refuse_empty(url, names, train, "train")
    held_out = len(val) == 0
    if held_out:
        train, val = _hold_out(url, names, train, val_fraction)
    _refuse_empty(url, names, val, "validation")
    return DatasetIndex(url, listing.kind, names, train, val, held_out)


Row = tuple[int, int, int, int, int, int]


def _scan(
    url: str, listing: Listing, on_progress: Callable[[int, int], None]
) -> tuple[tuple[str, ...], dict[str, list[Row]]]:
    if listing.kind == "builtin":
        from wmdd.data.sources import builtin_images

        rows = [_row(0, row, label, data, f"image {row}") for row, data, label in iterate_builtin(url)]
        return builtin_images(url)[2], {"train": rows, "val": []}
    return (_scan_folder if listing.kind == "folder" else _scan_parquet)(url, listing, on_progress)


def _scan_folder(
    url: str, listing: Listing, on_progress: Callable[[int, int], None]
) -> tuple[tuple[str, ...], dict[str, list[Row]]]:
    fs, root = open_file_system(url)
    folders = {class_of(path) for path in listing.files["train"]} | _empty_folders(fs, root, listing)
    names = tuple(sorted(folders))
    ids = {name: class_id for class_id, name in enumerate(names)}
    unknown = sorted({class_of(path) for path in listing.files["val"]} - set(names))
    if unknown:
        raise DataError(f"data.path={url}: validation class {unknown[0]} has no training folder; add or remove it")
    total, done = sum(map(len, listing.files.values())), 0
    rows: dict[str, list[Row]] = {}
    bad: list[str] = []

    def scan(item: tuple[int, str]) -> Row | str:
        number, path = item
        try:
            return _row(number, -1, ids[class_of(path)], fs.cat_file(f"{root}/{path}"), path)
        except (DataError, OSError) as exc:
            return str(exc)

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        for split, paths in listing.files.items():
            rows[split] = []
            for result in pool.map(scan, enumerate(paths), chunksize=64):
                done += 1
                if isinstance(result, str):
                    bad.append(result)
                else:
                    rows[split].append(result)
                if done % 1000 == 0:
                    on_progress(done, total)
    _refuse_bad(url, bad)
    return names, rows


def _empty_folders(fs: Any, root: str, listing: Listing) -> set[str]:
    base = f"{root}/train" if listing.files["train"][0].startswith("train/") else root
    inner = (
        item["name"].rstrip("/").rpartition("/")[2] for item in fs.ls(base, detail=True) if item["type"] == "directory"
    )
    return {name for name in inner if not name.startswith(".")}


def _scan_parquet(
    url: str, listing: Listing, on_progress: Callable[[int, int], None]
) -> tuple[tuple[str, ...], dict[str, list[Row]]]:
    files = [(split, number, file) for split, paths in listing.files.items() for number, file in enumerate(paths)]
    names, values = _parquet_names(url, files)
    ids = {value: class_id for class_id, value in enumerate(values)}
    total = sum(int(row_group_starts(url, file)[-1]) for _, _, file in files)
    rows: dict[str, list[Row]] = {split: [] for split in listing.files}
    bad: list[str] = []
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        for split, number, file in files:
            starts = row_group_starts(url, file)
            with open_parquet(url, file) as parquet:
                for group in range(parquet.num_row_groups):
                    encoded, labels = read_row_group(parquet, group, file)
                    places = range(int(starts[group]), int(starts[group + 1]))
                    items = zip(places, encoded, labels, strict=True)
                    found = pool.map(functools.partial(_parquet_row, number, file, ids), *zip(*items, strict=True))
                    for result in found:
                        (bad if isinstance(result, str) else rows[split]).append(result)  # type: ignore[arg-type]
                    on_progress(sum(map(len, rows.values())), total)
    _refuse_bad(url, bad)
    return names, rows


def _parquet_names(url: str, files: list[tuple[str, int, str]]) -> tuple[tuple[str, ...], list[Any]]:
    """Give class names, and the label value that stands for each."""
    with open_parquet(url, files[0][2]) as parquet:
        schema = parquet.schema_arrow
    _, label = parquet_columns(schema, f"data.path={url}: {files[0][2]}")
    names = parquet_class_names(schema, label)
    if names is not None:
        return names, list(range(len(names)))
    found: set[Any] = set()
    for split, _, file in files:
        if split == "train":
            with open_parquet(url, file) as parquet:
                found |= set(parquet.read(columns=[label]).column(label).to_pylist())
    values = sorted(value for value in found if value is not None)
    return tuple(str(value) for value in values), values


def _parquet_row(number: int, file: str, ids: dict[Any, int], row: int, data: bytes | None, label: Any) -> Row | str:
    where = f"{file} row {row}"
    if data is None:
        return f"{where} holds no image bytes"
    if label not in ids:
        return f"{where} has label {label!r}, which is none of {len(ids)} classes"
    try:
        return _row(number, row, ids[label], data, where)
    except DataError as exc:
        return str(exc)


def _row(file: int, row: int, label: int, data: bytes, where: str) -> Row:
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(f"{where} is no image") from exc
    digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    return file, row, label, height, width, digest


def _split(files: tuple[str, ...], rows: list[Row]) -> Split:
    columns: Iterator[Any] = iter(zip(*rows, strict=True)) if rows else iter([()] * len(_COLUMNS))
    return Split(files, *(np.array(column, dtype=kind) for column, kind in zip(columns, _KINDS, strict=True)))


def _keep(
    url: str, classes: tuple[str, ...] | None, names: tuple[str, ...], split: dict[str, Split]
) -> tuple[tuple[str, ...], dict[str, Split]]:
    if classes is None:
        return names, split
    for name in classes:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3, 0.3) or names[:3]
            raise DataError(f"data.classes={name}: not in {url}; near are {', '.join(near)}")
    if len(set(classes)) < len(classes):
        raise DataError(f"data.classes={','.join(classes)}: names a class twice; remove one")
    new_id = np.full(len(names), -1, dtype=np.int32)
    new_id[[names.index(name) for name in classes]] = np.arange(len(classes))

    def renamed(part: Split) -> Split:
        kept = part.take(np.flatnonzero(new_id[part.label] >= 0))
        return Split(kept.files, kept.file, kept.row, new_id[kept.label], kept.height, kept.width, kept.digest)

    return classes, {name: renamed(part) for name, part in split.items()}


def _hold_out(url: str, names: tuple[str, ...], train: Split, fraction: float) -> tuple[Split, Split]:
    if fraction == 0:
        raise DataError(f"data.path={url}: there is no val, validation or test split; set data.val_fraction above 0")
    held = np.zeros(len(train), dtype=bool)
    for class_id, name in enumerate(names):
        positions = train.of_class(class_id)
        if len(positions) < 2:
            raise DataError(f"data.path={url}: class {name} has one image, none can be held out; add a val split")
        count = min(math.ceil(len(positions) * fraction), len(positions) - 1)
        # Equal digests are equal images: the position breaks the tie.
        held[positions[np.argsort(train.digest[positions], kind="stable")[:count]]] = True
    return train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))


def _refuse_empty(url: str, names: tuple[str, ...], split: Split, what: str) -> None:
    counts = Counter(split.label.tolist())
    empty = [name for class_id, name in enumerate(names) if not counts[class_id]]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        remedy = "add images, or leave it out with data.classes"
        raise DataError(f"data.path={url}: class {empty[0]}{more} has no {what} images; {remedy}")


def _refuse_bad(url: str, bad: list[str]) -> None:
    if bad:
        more = f" (and {len(bad) - 1} more like it)" if len(bad) > 1 else ""
        raise DataError(f"data.path={url}: {bad[0]}{more}; remove or replace it")


def _hash(*parts: bytes) -> str:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()
