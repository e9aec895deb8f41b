"""How an index is made: each file of a set is read once, its header checked and its bytes digested, in parallel."""

from __future__ import annotations

import functools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wmdd.cpus import usable_cpus
from wmdd.data.decoding.decoder import read_header
from wmdd.data.decoding.faults import REPLACE, unread
from wmdd.data.hf_parquet import open_parquet, read_image_paths, read_row_group, row_group_starts
from wmdd.data.index import COLUMNS, DatasetIndex, Split, content_digest, held_out
from wmdd.data.layouts.classes import choose, class_folders, refuse_unknown
from wmdd.data.layouts.listing import Listing
from wmdd.data.layouts.parquet_labels import read_labels, unlabelled_row
from wmdd.data.layouts.set_files import open_file_system
from wmdd.data.layouts.sources import builtin_images, list_files
from wmdd.errors import DataError
from wmdd.storage.filesystem import read
from wmdd.text import and_more, printable

_AT_ONCE = 1024

Row = tuple[int, int, int, int, int, int, int, float, float, int, int, int]  # a value for each of `COLUMNS`
Progress = Callable[[int, int], None]


def build_index(
    url: str,
    *,
    classes: tuple[str, ...] | None = None,
    val_fraction: float = 0.2,
    upright: bool = False,
    bits: int | None = None,
    workers: int | None = None,
    listing: Listing | None = None,
    on_progress: Progress = lambda done, total: None,
) -> DatasetIndex:
    """Return the index of a set.

    Args:
        url: as for `list_files`.
        classes: keep only these, in this order; images of others are not read.
        val_fraction: held out of each class if there is no validation split; chosen by content digest, so that
            neither a seed nor a file name decides.
        upright: turn images as their EXIF orientation asks for.
        bits: that grey images of more than 8 bits use; None for all that their files have.
        workers: threads; None for a few per core.
        on_progress: called with the images done and the total.

    Raises:
        DataError: one line naming what is wrong, where, and the remedy.
    """
    listing = listing or list_files(url)
    if classes is None:
        listing.refuse_doubt(url)
    headers = _Headers(bits)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or min(32, 4 * usable_cpus())) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # such as one for each image with damaged EXIF
        scan = _SCANS[listing.kind](url, listing, classes, headers, pool, on_progress)
    _refuse_faults(url, scan.faults)
    headers.refuse_two_scales(url)
    train, val = (_split(listing.files[name], scan.rows[name]) for name in ("train", "val"))
    _refuse_empty(url, scan.names, train, "train", "remove its folder, " if listing.kind == "folder" else "")
    is_held_out = not listing.files["val"]
    if is_held_out:
        if val_fraction == 0:
            raise DataError(
                f"data.path={url}: there is no val, validation or test split; set data.val_fraction above 0"
            )
        train, val = held_out(url, scan.names, train, val_fraction)
    _refuse_empty(url, scan.names, val, "validation")
    train, val = (train.upright(), val.upright()) if upright else (train, val)
    return DatasetIndex(url, listing.kind, scan.names, train, val, is_held_out, upright, bits, scan.notes)


@dataclass
class _Scan:
    """What reading a set yields: the class names, a row for each image, and what is wrong with the others."""

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    rows: dict[str, list[Row]] = field(default_factory=lambda: {"train": [], "val": []})
    faults: list[str] = field(default_factory=list)

    def add(self, split: str, results: Iterable[Row | str]) -> None:
        """Add images of a split, each a row or a fault."""
        for result in results:
            if isinstance(result, str):
                self.faults.append(result)
            else:
                self.rows[split].append(result)


class _Headers:
    """Reads the headers of images, and keeps the first image of each scale that an image's values alone decide."""

    def __init__(self, bits: int | None) -> None:
        self.bits = bits
        self._scales: dict[tuple[str, int], str] = {}

    def columns(self, data: bytes, where: str) -> tuple[int, int, int, int, float, float, int, int, int]:
        """Return the columns of an encoded image from its height on."""
        header = read_header(data, where, self.bits)
        if header.scale is not None:
            self._scales.setdefault(header.scale, where)
        return (
            header.height,
            header.width,
            content_digest(data),
            header.orientation,
            *(header.levels or (0, 0, 0)),
            int(header.several),
            int(header.alpha),
        )

    def refuse_two_scales(self, url: str) -> None:
        """Raise DataError if the images differ in their scale: a dark one would be taken for a light one."""
        for mode in ("F", "I"):
            scales = sorted((white, where) for (other, white), where in self._scales.items() if other == mode)
            if len(scales) > 1:
                (low, dark), (high, light) = scales[0], scales[-1]
                remedy = "convert them to 8 or 16 bits" + (", or set data.bits" if mode == "I" else "")
                raise DataError(
                    f"data.path={url}: {dark} holds values up to {low}, and {light} up to {high}: which value is white "
                    f"in all of them cannot be told; {remedy}"
                )


def _scan_builtin(
    url: str,
    listing: Listing,
    classes: tuple[str, ...] | None,
    headers: _Headers,
    pool: ThreadPoolExecutor,
    on_progress: Progress,
) -> _Scan:
    images, labels, all_names = builtin_images(url)
    names, ids = choose(url, classes, all_names)
    kept = [row for row in range(len(images)) if ids[labels[row]] >= 0]
    scan = _Scan(names)
    scan.add("train", ((0, i, ids[labels[i]], *headers.columns(images[i], f"{url} row {i}")) for i in kept))
    on_progress(len(kept), len(kept))
    return scan


def _scan_folder(
    url: str,
    listing: Listing,
    classes: tuple[str, ...] | None,
    headers: _Headers,
    pool: ThreadPoolExecutor,
    on_progress: Progress,
) -> _Scan:
    fs, root = open_file_system(url)
    all_names = tuple(sorted(class_folders(url, listing)))
    _refuse_undecoded(url, all_names)
    names, ids = choose(url, classes, all_names)
    id_of = dict(zip(all_names, ids, strict=True))
    val_names = {listing.class_of(path) for path in listing.files["val"]}
    if classes is None:
        refuse_unknown(url, val_names, all_names)

    def row(item: tuple[int, str]) -> Row | str:
        number, path = item
        try:
            return number, -1, id_of[listing.class_of(path)], *headers.columns(read(fs, f"{root}/{path}"), path)
        except DataError as exc:
            return str(exc)
        except (OSError, EOFError) as exc:
            return unread(fs, f"{root}/{path}", path, exc)

    kept = {
        split: [(number, path) for number, path in enumerate(paths) if id_of.get(listing.class_of(path), -1) >= 0]
        for split, paths in listing.files.items()
    }
    scan = _Scan(names)
    done, total = 0, sum(map(len, kept.values()))
    for split, items in kept.items():
        for start in range(0, len(items), _AT_ONCE):
            scan.add(split, pool.map(row, items[start : start + _AT_ONCE]))
            done += len(items[start : start + _AT_ONCE])
            on_progress(done, total)
    return scan


def _scan_parquet(
    url: str,
    listing: Listing,
    classes: tuple[str, ...] | None,
    headers: _Headers,
    pool: ThreadPoolExecutor,
    on_progress: Progress,
) -> _Scan:
    labels = read_labels(url, listing.files)
    if classes is None and labels.doubt:
        raise DataError(f"data.path={url}: {labels.doubt}")
    all_names = tuple(labels.values.values())
    _refuse_undecoded(url, all_names)
    names, ids = choose(url, classes, all_names)
    id_of = dict(zip(labels.values, ids, strict=True))
    id_of |= {label: id_of[known] for label, known in labels.spelled.items()}
    scan, done = _Scan(names, labels.notes), 0
    for split, files in listing.files.items():
        for number, file in enumerate(files):
            with open_parquet(url, file) as parquet:
                starts = row_group_starts(parquet).tolist()
                for group, start in enumerate(starts[:-1]):
                    encoded, values = read_row_group(parquet, group, file)
                    kept = [i for i, label in enumerate(values) if id_of.get(label, 0) >= 0]
                    paths = read_image_paths(parquet, group, file) if None in encoded else []
                    row = functools.partial(_parquet_row, headers, number, file, id_of, start, paths)
                    columns = ([start + i for i in kept], [encoded[i] for i in kept], [values[i] for i in kept])
                    scan.add(split, pool.map(row, *columns))
                    done += len(values)
                    on_progress(done, labels.total)
    return scan


def _parquet_row(
    headers: _Headers,
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
        return number, row, id_of[label], *headers.columns(data, where)
    except DataError as exc:
        return str(exc)


# How the images of each kind of `Listing` are read.
_SCANS = {"folder": _scan_folder, "parquet": _scan_parquet, "builtin": _scan_builtin}


def _split(files: tuple[str, ...], rows: list[Row]) -> Split:
    columns: Iterable[Any] = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    return Split(
        files, *(np.array(values, dtype=dtype) for values, dtype in zip(columns, COLUMNS.values(), strict=True))
    )


def _refuse_undecoded(url: str, names: tuple[str, ...]) -> None:
    """Raise DataError for class names that are no text: nothing could be written about them."""
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


def _refuse_empty(url: str, names: tuple[str, ...], split: Split, what: str, remedy: str = "") -> None:
    counts = Counter(split.label.tolist())
    empty = [name for class_id, name in enumerate(names) if not counts[class_id]]
    if empty:
        raise DataError(
            f"data.path={url}: class {empty[0]}{and_more(len(empty) - 1)} has no {what} images; add images, {remedy}or "
            "leave it out with data.classes"
        )


def _refuse_faults(url: str, faults: list[str]) -> None:
    if faults:
        what, _, remedy = faults[0].rpartition("; ")
        alike = sum(line.endswith(f"; {remedy}") for line in faults) - 1
        others = len(faults) - 1 - alike
        more = [f"{alike} more like it"] if alike else []
        more += [f"{others} with other faults"] if others else []
        counts = f" (and {', '.join(more)})" if more else ""
        raise DataError(f"data.path={url}: {what}{counts}; {remedy}")
