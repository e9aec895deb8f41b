"""How an index is made: each file of a set is read once, its header checked and its bytes digested, in parallel."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from wmdd.cpus import usable_cpus
from wmdd.data.decoding.decoder import Header, read_header
from wmdd.data.decoding.faults import refusal, unread
from wmdd.data.hf_parquet import open_parquet, read_row_group, row_group_starts
from wmdd.data.index import COLUMNS, DatasetIndex, Split, content_digest, hold_out
from wmdd.data.layouts.classes import choose, class_folders, refuse_unknown
from wmdd.data.layouts.listing import Listing
from wmdd.data.layouts.parquet_labels import read_labels, unlabelled_row
from wmdd.data.layouts.set_files import open_file_system
from wmdd.data.layouts.sources import builtin_images, list_files
from wmdd.data.parallel import map_waiting
from wmdd.errors import DataError
from wmdd.storage.filesystem import is_local, read
from wmdd.text import and_more

_AT_ONCE = 1024
_PHOTOGRAPH_PX = 10**5

Rows = dict[str, list[tuple[float, ...]]]  # by split, each with a value for each of `COLUMNS`


def build_index(
    url: str,
    *,
    classes: tuple[str, ...] | None = None,
    val_fraction: float = 0.2,
    upright: bool = False,
    bits: int | None = None,
    workers: int | None = None,
    listing: Listing | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> DatasetIndex:
    """Return the index of a set.

    Args:
        url: as for `list_files`.
        classes: keep only these, in this order; images of others are not read.
        val_fraction: held out of each class if there is no validation split; chosen by content digest, so that
            neither a seed nor a file name decides.
        upright, bits: as in `DatasetIndex`.
        workers: threads; None for a few per core.
        on_progress: called with the images done and the total.

    Raises:
        DataError: one line naming what is wrong, where, and the remedy.
    """
    listing = listing or list_files(url)
    if classes is None:
        listing.refuse_doubt(url)
    source = _SOURCES[listing.kind](url, listing, classes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # such as one for each image with damaged EXIF
        rows = _read_all(url, source, bits, workers or min(32, 4 * usable_cpus()), on_progress)
    train, val = (_split(listing.files[name], rows[name]) for name in ("train", "val"))
    train, val = (train.upright(), val.upright()) if upright else (train, val)
    names = source.class_names
    _refuse_empty(url, names, train, "train", "remove its folder, " if listing.kind == "folder" else "")
    has_val = len(listing.files["val"]) > 0
    index = DatasetIndex(url, listing.kind, names, train, val, not has_val, upright, bits, source.notes)
    if not has_val and val_fraction == 0:
        raise DataError(f"data.path={url}: there is no val, validation or test split; set data.val_fraction above 0")
    index = index if has_val else hold_out(index, val_fraction)
    _refuse_empty(url, names, index.val, "validation")
    return index


class _Image(NamedTuple):
    """An image to read: its file and row, its class, its name in messages, and what reads the bytes of this name."""

    file: int
    row: int
    class_id: int
    name: str
    read: Callable[[str], bytes]


Batch = tuple[str, int, list[_Image]]  # the split, how many images of the total are done with it, and those to read


class _Source(NamedTuple):
    """What is known of a set before its images are read."""

    class_names: tuple[str, ...]
    total: int
    batches: Iterable[Batch]
    notes: tuple[str, ...] = ()
    is_remote: bool = False  # its files are of a network, or members of an archive


def _builtin(url: str, listing: Listing, classes: tuple[str, ...] | None) -> _Source:
    files, labels, all_names = builtin_images(url)
    names, ids = choose(url, classes, all_names)
    data = {f"{url} row {row}": file for row, file in enumerate(files)}
    images = [_Image(0, row, ids[labels[row]], name, data.__getitem__) for row, name in enumerate(data)]
    images = [image for image in images if image.class_id >= 0]
    return _Source(names, len(images), [("train", len(images), images)])


def _folder(url: str, listing: Listing, classes: tuple[str, ...] | None) -> _Source:
    all_names = tuple(sorted(class_folders(url, listing)))
    names, ids = choose(url, classes, all_names)
    id_of = dict(zip(all_names, ids, strict=True))
    if classes is None:
        refuse_unknown(url, {listing.class_of(path) for path in listing.files["val"]}, all_names)
    fs, root = open_file_system(url)
    read_file = functools.partial(_of_file, fs, root)
    images = {
        split: [
            _Image(number, -1, class_id, path, read_file)
            for number, path in enumerate(paths)
            if (class_id := id_of.get(listing.class_of(path), -1)) >= 0
        ]
        for split, paths in listing.files.items()
    }
    batches = (
        (split, len(batch), batch)
        for split, items in images.items()
        for start in range(0, len(items), _AT_ONCE)
        if (batch := items[start : start + _AT_ONCE])
    )
    return _Source(names, sum(map(len, images.values())), batches, is_remote=not is_local(fs))


def _of_file(fs: Any, root: str, path: str) -> bytes:
    try:
        return read(fs, f"{root}/{path}")
    except (OSError, EOFError) as exc:
        raise DataError(unread(fs, f"{root}/{path}", path, exc)) from exc


def _parquet(url: str, listing: Listing, classes: tuple[str, ...] | None) -> _Source:
    labels = read_labels(url, listing.files)
    if classes is None and labels.doubt:
        raise DataError(f"data.path={url}: {labels.doubt}")
    names, ids = choose(url, classes, tuple(labels.values.values()))
    id_of = dict(zip(labels.values, ids, strict=True))
    id_of |= {label: id_of[known] for label, known in labels.spelled.items()}
    return _Source(names, labels.total, _row_groups(url, listing, id_of, len(names)), labels.notes)


def _row_groups(url: str, listing: Listing, id_of: dict[Any, int], num_classes: int) -> Iterator[Batch]:
    files = [(split, *item) for split, paths in listing.files.items() for item in enumerate(paths)]
    for split, number, file in files:
        with open_parquet(url, file) as parquet:
            for group, start in enumerate(row_group_starts(parquet)[:-1].tolist()):
                images = []
                rows = zip(*read_row_group(parquet, group, file), strict=True)
                for row, (data, label, path) in enumerate(rows, start):
                    name = f"{file} row {row}"
                    fault = "" if label in id_of else unlabelled_row(name, label, num_classes)
                    read_row = functools.partial(_of_row, data, path, fault)
                    images.append(_Image(number, row, id_of.get(label, 0), name, read_row))
                yield split, len(images), [image for image in images if image.class_id >= 0]


def _of_row(data: bytes | None, path: str | None, fault: str, name: str) -> bytes:
    if data is None and path:
        raise DataError(
            f"{name} holds the name of a file ({path}), and not its bytes: the images are outside of the set; write it "
            "with their bytes, or give them in class folders"
        )
    if data is None:
        raise refusal(name, "holds no image bytes")
    if fault:
        raise DataError(fault)
    return data


# How the images of each kind of `Listing` are read.
_SOURCES = {"folder": _folder, "parquet": _parquet, "builtin": _builtin}


def _read_all(
    url: str, source: _Source, bits: int | None, threads: int, on_progress: Callable[[int, int], None]
) -> Rows:
    """Return the rows of all images; raise DataError if some cannot be read, or differ in their scale."""
    rows: Rows = {"train": [], "val": []}
    faults, scales, done = list[str](), dict[tuple[str, int], str](), 0
    read_one = functools.partial(_header, bits)
    in_threads = source.is_remote
    for split, count, images in source.batches:
        results = map_waiting(read_one, images, threads, at_once=_AT_ONCE, in_threads=in_threads)
        for image, result in zip(images, results, strict=True):
            if isinstance(result, str):
                faults.append(result)
                continue
            digest, header = result
            if header.scale is not None:
                scales.setdefault(header.scale, image.name)
            sizes = header.height, header.width, digest, header.orientation
            levels = header.levels or (0, 0, 0)
            rows[split].append((*image[:3], *sizes, *levels, header.several, header.alpha))
        in_threads = source.is_remote or _are_photographs(rows[split][-_AT_ONCE:])
        done += count
        on_progress(done, source.total)
    _refuse_faults(url, faults)
    _refuse_two_scales(url, scales)
    return rows


def _are_photographs(rows: list[tuple[float, ...]]) -> bool:
    """Whether images are so large that threads shorten their reading: to digest one takes as long as all else."""
    height, width = map(list(COLUMNS).index, ("height", "width"))
    return sum(row[height] * row[width] for row in rows) > _PHOTOGRAPH_PX * len(rows)


def _header(bits: int | None, image: _Image) -> tuple[int, Header] | str:
    """Return the digest and header of an image, or what is wrong with it."""
    try:
        data = image.read(image.name)
        return content_digest(data), read_header(data, image.name, bits)
    except DataError as exc:
        return str(exc)


def _split(files: tuple[str, ...], rows: list[tuple[float, ...]]) -> Split:
    table = np.array(rows, dtype=list(COLUMNS.items()))
    return Split(files, *(table[name].copy() for name in COLUMNS))


def _refuse_two_scales(url: str, first: dict[tuple[str, int], str]) -> None:
    """Raise DataError if images of a mode differ in the value that is white: a dark one would be taken for a light one.

    Args:
        first: the name of the first image of each mode and white.
    """
    for mode in ("F", "I"):
        scales = sorted((white, name) for (other, white), name in first.items() if other == mode)
        if len(scales) > 1:
            (low, dark), (high, light) = scales[0], scales[-1]
            remedy = "convert them to 8 or 16 bits" + (", or set data.bits" if mode == "I" else "")
            raise DataError(
                f"data.path={url}: {dark} holds values up to {low}, and {light} up to {high}: which value is white "
                f"in all of them cannot be told; {remedy}"
            )


def _refuse_empty(url: str, names: tuple[str, ...], split: Split, what: str, remedy: str = "") -> None:
    counts = np.bincount(split.label, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"data.path={url}: class {empty[0]}{and_more(len(empty) - 1)} has no {what} images; add images, {remedy}or "
            "leave it out with data.classes"
        )


def _refuse_faults(url: str, faults: list[str]) -> None:
    if faults:
        what, _, remedy = faults[0].rpartition("; ")
        alike = sum(line.endswith(f"; {remedy}") for line in faults) - 1
        groups = ((alike, "more like it"), (len(faults) - 1 - alike, "with other faults"))
        more = ", ".join(f"{count} {words}" for count, words in groups if count)
        counts = f" (and {more})" if more else ""
        raise DataError(f"data.path={url}: {what}{counts}; {remedy}")
