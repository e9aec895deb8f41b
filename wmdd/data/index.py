"""The index of a real set: every image's place, class, size and content digest; each file is read once to make it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wmdd.cpus import usable_cpus
from wmdd.data.decoding.decoder import read_header
from wmdd.data.decoding.faults import REPLACE, unread
from wmdd.data.hf_parquet import open_parquet, read_image_paths, read_row_group, row_group_starts
from wmdd.data.layouts.classes import choose, class_folders, refuse_unknown
from wmdd.data.layouts.parquet_labels import read_labels, unlabelled_row
from wmdd.data.layouts.set_files import open_file_system
from wmdd.data.layouts.sources import Listing, builtin_images, list_files
from wmdd.errors import DataError
from wmdd.storage.artifact import Files
from wmdd.storage.filesystem import read
from wmdd.storage.parquet import column, read_table
from wmdd.text import printable

LEVELS = ("low", "high", "white", "several", "alpha")
_COLUMNS = ("file", "row", "label", "height", "width", "digest", "orientation", *LEVELS)
_KINDS = (
    np.int32,
    np.int64,
    np.int32,
    np.int32,
    np.int32,
    np.uint64,
    np.int8,
    np.float32,
    np.float32,
    np.int64,
    np.int8,
    np.int8,
)
_AT_ONCE = 1024


class Whites(dict[tuple[str, int], str]):
    """Which values are taken for white by which kinds of images, with the first of each; `bits` decides for some."""

    def __init__(self, bits: int | None) -> None:
        super().__init__()
        self.bits = bits


@dataclass(frozen=True, eq=False)
class Split:
    """The images of a split, in a fixed order.

    Args:
        files: paths relative to the set's root.
        file: (n,) int32, which file holds the image.
        row: (n,) int64, row inside a Parquet file, -1 for an image file.
        label: (n,) int32 class ids.
        height, width: (n,) int32 px, as the image is decoded.
        digest: (n,) uint64 of the encoded bytes.
        orientation: (n,) int8, as EXIF numbers them; 1 is upright.
        low, high: (n,) float32, the least and the greatest value in the file.
        white: (n,) int64, the value that is decoded to 255; 0 if the image was not decoded for the index.
        several: (n,) int8, 1 if the file holds further frames or pages.
        alpha: (n,) int8, 1 if the image has transparency.
    """

    files: tuple[str, ...]
    file: np.ndarray
    row: np.ndarray
    label: np.ndarray
    height: np.ndarray
    width: np.ndarray
    digest: np.ndarray
    orientation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    white: np.ndarray
    several: np.ndarray
    alpha: np.ndarray

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

    def upright(self) -> Split:
        """Return the images as they are once they are turned upright."""
        lying = self.orientation >= 5  # by a quarter
        height, width = np.where(lying, (self.width, self.height), (self.height, self.width))
        return replace(self, height=height, width=width)


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """A real set, ready to be read.

    Args:
        url: its root.
        kind: ``folder``, ``parquet`` or ``builtin``.
        class_names: class ids are positions in it.
        val_held_out: the validation images were taken from the training split, because there is no other.
        upright: images are turned as their EXIF orientation asks for, wherever they are decoded.
        bits: that grey images of more than 8 bits use; None for all that their files have.
        notes: lines for the user about how the set was read; those about labels, which are read once, are stored.
    """

    url: str
    kind: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    val_held_out: bool
    upright: bool = False
    bits: int | None = None
    notes: tuple[str, ...] = ()

    def class_digest(self, class_id: int) -> str:
        """Hash one class's training images and name; no other class can change it."""
        part = self.train.take(self.train.of_class(class_id))
        return _hash(self.class_names[class_id].encode(), part.digest.tobytes(), *self._decoded)

    def digest(self, split: Literal["train", "val"]) -> str:
        """Hash a split: names, labels and contents, in order."""
        part = self.train if split == "train" else self.val
        return _hash(json.dumps(self.class_names).encode(), part.label.tobytes(), part.digest.tobytes(), *self._decoded)

    @property
    def _decoded(self) -> tuple[bytes, ...]:
        upright = (b"upright",) if self.upright else ()
        return upright if self.bits is None else (*upright, f"bits {self.bits}".encode())

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
        facts = {
            name: getattr(self, name) for name in ("url", "kind", "class_names", "val_held_out", "upright", "bits")
        }
        facts |= {"notes": self.notes} if self.notes else {}
        facts |= {"train": len(self.train), "train_files": self.train.files, "val_files": self.val.files}
        table = pa.table(columns).replace_schema_metadata({"wmdd": json.dumps(facts)})
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd")
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        table = read_table(data)
        facts = json.loads(table.schema.metadata[b"wmdd"])
        if "orientation" not in table.column_names:  # of an earlier version, which ignored it
            table = table.append_column("orientation", pa.array(np.ones(len(table), np.int8)))
        for name in LEVELS if "white" not in table.column_names else ():
            table = table.append_column(name, pa.array(np.zeros(len(table), np.int8)))
        columns = [column(table, name).astype(kind) for name, kind in zip(_COLUMNS, _KINDS, strict=True)]
        train = Split(tuple(facts["train_files"]), *(values[: facts["train"]] for values in columns))
        val = Split(tuple(facts["val_files"]), *(values[facts["train"] :] for values in columns))
        names, upright, bits = tuple(facts["class_names"]), facts.get("upright", False), facts.get("bits")
        notes = tuple(facts.get("notes", ()))
        return cls(facts["url"], facts["kind"], names, train, val, facts["val_held_out"], upright, bits, notes)


def hold_out(index: DatasetIndex, share: float) -> DatasetIndex:
    """Let a share of each class's training images, chosen by their content, take the place of the validation images.

    Raises:
        DataError: if a class has one training image.
    """
    train, held = _hold_out(index.url, index.class_names, index.train, share)
    return replace(index, train=train, val=held, val_held_out=True)


def limit(index: DatasetIndex, count: int) -> DatasetIndex:
    """Keep at most `count` images of each class in each split, chosen by their content, in the order of the set."""

    def kept(split: Split) -> Split:
        chosen = np.zeros(len(split), dtype=bool)
        for class_id in range(len(index.class_names)):
            positions = split.of_class(class_id)
            chosen[positions[np.argsort(split.digest[positions], kind="stable")[:count]]] = True
        return split.take(np.flatnonzero(chosen))

    return replace(index, train=kept(index.train), val=kept(index.val))


def listing_signature(url: str) -> str:
    """Hash names, sizes and times of a set's files: cheap, and equal as long as a stored index holds."""
    return list_files(url).signature


def build_index(
    url: str,
    *,
    classes: tuple[str, ...] | None = None,
    val_fraction: float = 0.2,
    upright: bool = False,
    bits: int | None = None,
    workers: int | None = None,
    listing: Listing | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DatasetIndex:
    """Read every image of a set once: digest its bytes and check its header, in parallel.

    Args:
        url: as for `list_files`.
        classes: keep only these, in this order; images of others are not read.
        val_fraction: held out per class when there is no validation split; chosen by content digest, so that neither
            a seed nor a file name decides.
        upright: turn images as their EXIF orientation asks for.
        bits: that grey images of more than 8 bits use; their files' own when absent.
        workers: threads; a few per core when absent.
        on_progress: told images done and the total.

    Raises:
        DataError: one line naming what is wrong, where, and the remedy.
    """
    listing = listing or list_files(url)
    if classes is None:
        listing.refuse_doubt(url)
    scan = {"folder": _scan_folder, "parquet": _scan_parquet, "builtin": _scan_builtin}[listing.kind]
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or min(32, 4 * usable_cpus())) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # such as one for each image with damaged EXIF
        whites = Whites(bits)
        names, rows, bad, notes = scan(url, listing, classes, pool, on_progress or _silent, whites)
    _refuse_bad(url, bad)
    _refuse_two_scales(url, whites)
    train, val = (_split(listing.files[name], rows[name]) for name in ("train", "val"))
    _refuse_empty(url, names, train, "train", "remove its folder, " if listing.kind == "folder" else "")
    held_out = not listing.files["val"]
    if held_out:
        train, val = _hold_out(url, names, train, val_fraction)
    _refuse_empty(url, names, val, "validation")
    train, val = (train.upright(), val.upright()) if upright else (train, val)
    return DatasetIndex(url, listing.kind, names, train, val, held_out, upright, bits, notes)


Row = tuple[int, int, int, int, int, int, int, float, float, int, int, int]
Scan = tuple[tuple[str, ...], dict[str, list[Row]], list[str], tuple[str, ...]]
Progress = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


def content_digest(data: bytes) -> int:
    """Hash an image's encoded bytes to 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _scan_builtin(
    url: str,
    listing: Listing,
    classes: tuple[str, ...] | None,
    pool: ThreadPoolExecutor,
    on_progress: Progress,
    whites: Whites,
) -> Scan:
    images, labels, all_names = builtin_images(url)
    names, ids = choose(url, classes, all_names)
    kept = [row for row in range(len(images)) if ids[labels[row]] >= 0]
    rows = [(0, row, ids[labels[row]], *_facts(images[row], f"{url} row {row}", whites)) for row in kept]
    on_progress(len(rows), len(rows))
    return names, {"train": rows, "val": []}, [], ()


def _refuse_undecoded(url: str, names: tuple[str, ...]) -> None:
    """Refuse class names that are no text: nothing could be written about them."""
    wrong = next((name for name in names if any("\ud800" <= character <= "\udfff" for character in name)), None)
    if wrong is None:
        return
    try:
        data = os.fsencode(wrong)
        remedy = f"the name is not UTF-8; rename it, for instance to {data.decode('latin-1')}"
        data.decode()
        remedy = "this locale is not UTF-8, as the name is; set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
    except UnicodeDecodeError:
        pass
    except UnicodeEncodeError:  # half of a character, as JSON may hold it
        remedy = "the name is no text; rename it"
    raise DataError(f"data.path={url}: class {printable(wrong)}: {remedy}")


def _scan_folder(
    url: str,
    listing: Listing,
    classes: tuple[str, ...] | None,
    pool: ThreadPoolExecutor,
    on_progress: Progress,
    whites: Whites,
) -> Scan:
    fs, root = open_file_system(url)
    all_names = tuple(sorted(class_folders(url, listing)))
    _refuse_undecoded(url, all_names)
    names, ids = choose(url, classes, all_names)
    id_of = dict(zip(all_names, ids, strict=True))
    val_names = {listing.class_of(path) for path in listing.files["val"]}
    if classes is None:
        refuse_unknown(url, val_names, all_names)

    def scan(item: tuple[int, str]) -> Row | str:
        number, path = item
        try:
            return number, -1, id_of[listing.class_of(path)], *_facts(read(fs, f"{root}/{path}"), path, whites)
        except DataError as exc:
            return str(exc)
        except (OSError, EOFError) as exc:
            return unread(fs, f"{root}/{path}", path, exc)

    kept = {
        split: [(number, path) for number, path in enumerate(paths) if id_of.get(listing.class_of(path), -1) >= 0]
        for split, paths in listing.files.items()
    }
    rows: dict[str, list[Row]] = {split: [] for split in kept}
    bad: list[str] = []
    done, total = 0, sum(map(len, kept.values()))
    for split, items in kept.items():
        for start in range(0, len(items), _AT_ONCE):
            _sort_out(pool.map(scan, items[start : start + _AT_ONCE]), rows[split], bad)
            done += len(items[start : start + _AT_ONCE])
            on_progress(done, total)
    return names, rows, bad, ()


def _scan_parquet(
    url: str,
    listing: Listing,
    classes: tuple[str, ...] | None,
    pool: ThreadPoolExecutor,
    on_progress: Progress,
    whites: Whites,
) -> Scan:
    found = read_labels(url, listing.files)
    if classes is None and found.doubt:
        raise DataError(f"data.path={url}: {found.doubt}")
    all_names = tuple(found.values.values())
    _refuse_undecoded(url, all_names)
    names, ids = choose(url, classes, all_names)
    id_of = dict(zip(found.values, ids, strict=True))
    id_of |= {label: id_of[known] for label, known in found.spelled.items()}
    rows: dict[str, list[Row]] = {split: [] for split in listing.files}
    bad: list[str] = []
    done = 0
    for split, files in listing.files.items():
        for number, file in enumerate(files):
            with open_parquet(url, file) as parquet:
                starts = row_group_starts(parquet).tolist()
                for group, start in enumerate(starts[:-1]):
                    encoded, labels = read_row_group(parquet, group, file)
                    wanted = [i for i, label in enumerate(labels) if id_of.get(label, 0) >= 0]
                    paths = read_image_paths(parquet, group, file) if None in encoded else []
                    scan = functools.partial(_parquet_row, whites, number, file, id_of, start, paths)
                    columns = ([start + i for i in wanted], [encoded[i] for i in wanted], [labels[i] for i in wanted])
                    _sort_out(pool.map(scan, *columns), rows[split], bad)
                    done += len(labels)
                    on_progress(done, found.total)
    return names, rows, bad, found.notes


def _parquet_row(
    whites: Whites,
    number: int,
    file: str,
    id_of: dict[Any, int],
    start: int,
    paths: list[str | None],
    row: int,
    data: bytes | None,
    label: Any,
) -> Row | str:
    where = f"{file} row {row}"
    if data is None and paths[row - start]:
        return (
            f"{where} holds the name of a file ({paths[row - start]}), and not its bytes: the images are outside of "
            "the set; write it with their bytes, or give them in class folders"
        )
    if data is None:
        return f"{where} holds no image bytes; {REPLACE}"
    if label not in id_of:
        return unlabelled_row(where, label, len({class_id for class_id in id_of.values() if class_id >= 0}))
    try:
        return number, row, id_of[label], *_facts(data, where, whites)
    except DataError as exc:
        return str(exc)


def _facts(data: bytes, where: str, whites: Whites) -> tuple[int, int, int, int, float, float, int, int, int]:
    """Return the columns of an encoded image from its height on; note which value it takes for white."""
    header = read_header(data, where, whites.bits)
    if header.scale is not None:
        whites.setdefault(header.scale, where)
    levels = header.levels or (0, 0, 0)
    return (
        header.height,
        header.width,
        content_digest(data),
        header.orientation,
        *levels,
        int(header.several),
        int(header.alpha),
    )


def _refuse_two_scales(url: str, whites: Whites) -> None:
    """Raise DataError if the images differ in their scale, with which a dark one would be taken for a light one."""
    for kind in ("F", "I"):
        scales = sorted((white, where) for (found, white), where in whites.items() if found == kind)
        if len(scales) > 1:
            (low, dark), (high, light) = scales[0], scales[-1]
            remedy = "convert them to 8 or 16 bits" + (", or set data.bits" if kind == "I" else "")
            raise DataError(
                f"data.path={url}: {dark} holds values up to {low}, and {light} up to {high}: which value is white in "
                f"all of them cannot be told; {remedy}"
            )


def _sort_out(results: Iterator[Row | str], rows: list[Row], bad: list[str]) -> None:
    for result in results:
        if isinstance(result, str):
            bad.append(result)
        else:
            rows.append(result)


def _split(files: tuple[str, ...], rows: list[Row]) -> Split:
    columns: Iterator[Any] = iter(zip(*rows, strict=True)) if rows else iter([()] * len(_COLUMNS))
    return Split(files, *(np.array(column, dtype=kind) for column, kind in zip(columns, _KINDS, strict=True)))


def _hold_out(url: str, names: tuple[str, ...], train: Split, fraction: float) -> tuple[Split, Split]:
    if fraction == 0:
        raise DataError(f"data.path={url}: there is no val, validation or test split; set data.val_fraction above 0")
    held = np.zeros(len(train), dtype=bool)
    for class_id, name in enumerate(names):
        positions = train.of_class(class_id)
        if len(positions) < 2:
            raise DataError(f"data.path={url}: class {name} has one training image, none can be held out; add more")
        count = min(math.ceil(len(positions) * fraction), len(positions) - 1)
        # Equal digests are equal images: the position breaks the tie.
        held[positions[np.argsort(train.digest[positions], kind="stable")[:count]]] = True
    return train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))


def _refuse_empty(url: str, names: tuple[str, ...], split: Split, what: str, remedy: str = "") -> None:
    counts = Counter(split.label.tolist())
    empty = [name for class_id, name in enumerate(names) if not counts[class_id]]
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        remedy = f"add images, {remedy}or leave it out with data.classes"
        raise DataError(f"data.path={url}: class {empty[0]}{more} has no {what} images; {remedy}")


def _refuse_bad(url: str, bad: list[str]) -> None:
    if bad:
        what, _, remedy = bad[0].rpartition("; ")
        alike = sum(line.endswith(f"; {remedy}") for line in bad) - 1
        others = len(bad) - 1 - alike
        more = [f"{alike} more like it"] if alike else []
        more += [f"{others} with other faults"] if others else []
        counts = f" (and {', '.join(more)})" if more else ""
        raise DataError(f"data.path={url}: {what}{counts}; {remedy}")


def _hash(*parts: bytes) -> str:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()
