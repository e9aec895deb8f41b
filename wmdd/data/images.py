"""Read and decode real images in any order, with bounded memory."""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from pyarrow.parquet import ParquetFile
from torch import Tensor
from torch.utils.data import Dataset

from wmdd.cpus import usable_cpus
from wmdd.data.decoding.decoder import decode
from wmdd.data.decoding.pixels import evaluation_crop, to_tensor
from wmdd.data.hf_parquet import open_parquet, read_row_group, row_group_starts
from wmdd.data.index import DatasetIndex, Split, content_digest
from wmdd.data.layouts.set_files import open_file_system
from wmdd.data.layouts.sources import builtin_images
from wmdd.errors import ChangedError, DataError, StorageError
from wmdd.storage.filesystem import explain, read

_THREADS = min(8, usable_cpus())
_FILES_AT_ONCE = 64


def image_name(index: DatasetIndex, split: str, position: int) -> str:
    """Return the name of an image for messages: its file, and its row in a Parquet file."""
    part = _part(index, split)
    file, row = part.files[part.file[position]], int(part.row[position])
    return file if row < 0 else f"{file} row {row}"


def read_encoded(index: DatasetIndex, split: str, positions: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yield (position, encoded bytes), in an order that reads each Parquet row group once, one of them in memory.

    Raises:
        DataError: if a file has gone or changed (ChangedError) since it was indexed.
    """
    part = _part(index, split)
    if index.kind == "builtin":
        images = builtin_images(index.url)[0]
        yield from ((int(position), images[part.row[position]]) for position in positions)
        return
    if index.kind == "folder":
        fs, root = open_file_system(index.url)
        read = functools.partial(_read_file, fs, root, index, split)
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(positions), _FILES_AT_ONCE):
                yield from pool.map(read, positions[start : start + _FILES_AT_ONCE].tolist())
        return
    for number in np.unique(part.file[positions]):
        members = positions[part.file[positions] == number]
        with open_parquet(index.url, part.files[number]) as parquet:
            for group, start, where in _by_row_group(parquet, index, split, members):
                encoded, _ = read_row_group(parquet, group, part.files[number])
                for position in where.tolist():
                    yield position, _unchanged(encoded[part.row[position] - start], index, split, position)


def load_uint8(index: DatasetIndex, split: str, positions: np.ndarray, *, size: int, crop_ratio: float) -> Tensor:
    """Return images as networks see them in evaluation: resized, centre-cropped, (n, 3, size, size) uint8.

    Args:
        positions: of the images; the result keeps their order, also of repeated ones.
        crop_ratio: the shorter side is resized to size / crop_ratio before the crop.
    """
    return _load(index, split, positions, lambda image: evaluation_crop(image, size, crop_ratio), (size, size))


def load_native_uint8(index: DatasetIndex, split: str, positions: np.ndarray) -> Tensor:
    """Return images of one common size as they are stored, (n, 3, h, w) uint8."""
    size = _part(index, split).uniform_size()
    assert size is not None, "images differ in size"
    return _load(index, split, positions, lambda image: image, size)


def _load(
    index: DatasetIndex,
    split: str,
    positions: np.ndarray,
    transform: Callable[[Image.Image], Image.Image],
    size: tuple[int, int],
) -> Tensor:
    unique, where = np.unique(positions, return_inverse=True)
    place = {int(position): i for i, position in enumerate(unique)}
    out = torch.empty(len(unique), 3, *size, dtype=torch.uint8)

    def fill(item: tuple[int, bytes]) -> None:
        position, data = item
        image = transform(_decoded(data, index, split, position))
        out[place[position]] = to_tensor(image)

    with ThreadPoolExecutor(_THREADS) as pool:
        for chunk in _chunks(read_encoded(index, split, unique), 256):
            list(pool.map(fill, chunk))
    return out[torch.from_numpy(where.reshape(-1))]


def _decoded(data: bytes, index: DatasetIndex, split: str, position: int) -> Image.Image:
    orientation = int(_part(index, split).orientation[position]) if index.upright else 1
    return decode(data, image_name(index, split, position), orientation, index.bits)


def _chunks(items: Iterator[tuple[int, bytes]], length: int) -> Iterator[list[tuple[int, bytes]]]:
    chunk: list[tuple[int, bytes]] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == length:
            yield chunk
            chunk = []
    yield chunk


class StreamedImages(Dataset[tuple[Any, int]]):
    """Images by position, decoded on access; fit for DataLoader workers.

    Args:
        transform: from a PIL image.
        cached_groups: Parquet row groups kept in memory by each worker.
    """

    def __init__(
        self, index: DatasetIndex, split: str, transform: Callable[[Image.Image], Any], cached_groups: int = 8
    ) -> None:
        self.index, self.split, self.transform, self.cached_groups = index, split, transform, cached_groups
        self._groups: OrderedDict[tuple[int, int], list[bytes | None]] = OrderedDict()
        self._starts: dict[int, np.ndarray] = {}
        self._files: dict[int, tuple[Any, str]] = {}  # by process id: to open an archive lists its members

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": OrderedDict(), "_starts": {}, "_files": {}}

    def __len__(self) -> int:
        return len(_part(self.index, self.split))

    def __getitem__(self, position: int) -> tuple[Any, int]:
        part = _part(self.index, self.split)
        image = _decoded(self._encoded(part, position), self.index, self.split, position)
        return self.transform(image), int(part.label[position])

    def _encoded(self, part: Split, position: int) -> bytes:
        if self.index.kind == "folder":
            if os.getpid() not in self._files:
                self._files = {os.getpid(): open_file_system(self.index.url)}
            return _read_file(*self._files[os.getpid()], self.index, self.split, position)[1]
        if self.index.kind == "builtin":
            return next(read_encoded(self.index, self.split, np.array([position])))[1]
        file, row = int(part.file[position]), int(part.row[position])
        if file not in self._starts:
            with open_parquet(self.index.url, part.files[file]) as parquet:
                self._starts[file] = row_group_starts(parquet)
        starts = self._starts[file]
        group = int(np.searchsorted(starts, row, side="right") - 1)
        if group == len(starts) - 1:
            raise _changed(self.index, self.split, position)
        encoded = self._group(part, file, group)[row - starts[group]]
        return _unchanged(encoded, self.index, self.split, position)

    def _group(self, part: Split, file: int, group: int) -> list[bytes | None]:
        key = file, group
        if key not in self._groups:
            with open_parquet(self.index.url, part.files[file]) as parquet:
                self._groups[key] = read_row_group(parquet, group, part.files[file])[0]
            if len(self._groups) > self.cached_groups:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def window_shuffle(index: DatasetIndex, split: str, rng: np.random.Generator, window_groups: int = 8) -> np.ndarray:
    """Return a permutation of all positions for an epoch that reads Parquet in windows of a few row groups.

    Row groups are permuted and rows are shuffled within windows, so that a window's groups are read once; image files
    are permuted freely.
    """
    part = _part(index, split)
    if index.kind != "parquet":
        return rng.permutation(len(part))
    groups: list[np.ndarray] = []
    for number in np.unique(part.file):
        with open_parquet(index.url, part.files[number]) as parquet:
            by_group = _by_row_group(parquet, index, split, np.flatnonzero(part.file == number))
            groups += [members for _, _, members in by_group]
    if len(groups) <= window_groups:
        return rng.permutation(len(part))  # one window: the order of a folder with the same images
    order = rng.permutation(len(groups))
    windows = [order[start : start + window_groups] for start in range(0, len(order), window_groups)]
    return np.concatenate([rng.permutation(np.concatenate([groups[group] for group in window])) for window in windows])


def _by_row_group(
    parquet: ParquetFile, index: DatasetIndex, split: str, positions: np.ndarray
) -> list[tuple[int, int, np.ndarray]]:
    """Return the positions of one file by row group: (group, its first row, positions in their given order)."""
    rows, starts = _part(index, split).row[positions], row_group_starts(parquet)
    if rows.max() >= starts[-1]:
        raise _changed(index, split, int(positions[rows.argmax()]))
    of = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(of, kind="stable")
    groups, first = np.unique(of[order], return_index=True)
    parts = np.split(positions[order], first[1:])
    return [(int(group), int(starts[group]), where) for group, where in zip(groups, parts, strict=True)]


def _read_file(fs: Any, root: str, index: DatasetIndex, split: str, position: int) -> tuple[int, bytes]:
    file = image_name(index, split, position)
    try:
        data = read(fs, f"{root}/{file}")
    except FileNotFoundError as exc:
        raise DataError(f"{file} has gone since the set was indexed; restore it, or run again to index it") from exc
    except (OSError, EOFError) as exc:
        # The set may be whole: another worker, or a later try, may read it.
        raise StorageError(f"{root}/{file} cannot be read {explain(exc)}") from exc
    return position, _unchanged(data, index, split, position)


def _unchanged(data: bytes | None, index: DatasetIndex, split: str, position: int) -> bytes:
    # Results are filed under the digests of the index: other bytes must not be taken for them.
    if data is None or content_digest(data) != _part(index, split).digest[position]:
        raise _changed(index, split, position)
    return data


def _changed(index: DatasetIndex, split: str, position: int) -> ChangedError:
    name = image_name(index, split, position)
    return ChangedError(f"{name} has changed since the set was indexed; restore it, or run again to index it")


def _part(index: DatasetIndex, split: str) -> Split:
    return index.train if split == "train" else index.val
