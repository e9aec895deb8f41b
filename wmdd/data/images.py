"""Read and decode real images in any order, with bounded memory."""

from __future__ import annotations

import collections
import functools
import itertools
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
from wmdd.data.decoding.jpeg import jpeg_pixels
from wmdd.data.decoding.pixels import evaluation_crop
from wmdd.data.hf_parquet import open_parquet, read_row_group, row_group_starts
from wmdd.data.index import DatasetIndex, Split, content_digest
from wmdd.data.layouts.set_files import open_file_system
from wmdd.data.layouts.sources import builtin_images
from wmdd.data.parallel import map_in, map_waiting
from wmdd.errors import ChangedError, DataError, StorageError
from wmdd.storage.filesystem import explain, is_local, read

_THREADS = min(8, usable_cpus())
_FILES_AT_ONCE, _DECODED_AT_ONCE = 64, 256
_SMALL_PX = 48 * 48  # average of images that one thread reads and decodes: see `wmdd.data.parallel`


def read_encoded(index: DatasetIndex, split: str, positions: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yield (position, encoded bytes), in an order that reads each Parquet row group once, one of them in memory.

    Raises:
        DataError: if a file has gone or changed (ChangedError) since it was indexed.
    """
    part = index.split(split)
    if index.kind == "builtin":
        images = builtin_images(index.url)[0]
        yield from ((int(position), images[part.row[position]]) for position in positions)
        return
    if index.kind == "folder":
        read_file = functools.partial(_read_file, *open_file_system(index.url), part)
        numbers = positions.tolist()
        in_threads = not (is_local(read_file.args[0]) and _are_small(part, positions))
        files = map_waiting(read_file, numbers, _THREADS, at_once=_FILES_AT_ONCE, in_threads=in_threads)
        yield from zip(numbers, files, strict=True)
        return
    for number in np.unique(part.file[positions]):
        members = positions[part.file[positions] == number]
        with open_parquet(index.url, part.files[number]) as parquet:
            for group, start, where in _by_row_group(parquet, part, members):
                encoded = read_row_group(parquet, group, part.files[number])[0]
                for position in where.tolist():
                    yield position, _unchanged(encoded[part.row[position] - start], part, position)


def load_uint8(index: DatasetIndex, split: str, positions: np.ndarray, *, size: int, crop_ratio: float) -> Tensor:
    """Return images as networks see them in evaluation: resized, centre-cropped, (n, 3, size, size) uint8.

    Args:
        positions: of the images; the result keeps their order, also of repeated ones.
        crop_ratio: the shorter side is resized to size / crop_ratio before the crop.
    """
    crop = None
    if crop_ratio != 1 or index.split(split).uniform_size() != (size, size):
        crop = functools.partial(evaluation_crop, size=size, crop_ratio=crop_ratio)
    return _load(index, split, positions, (size, size), crop)


def load_native_uint8(index: DatasetIndex, split: str, positions: np.ndarray) -> Tensor:
    """Return images of one common size as they are stored, (n, 3, h, w) uint8."""
    size = index.split(split).uniform_size()
    assert size is not None, "images differ in size"
    return _load(index, split, positions, size, None)


def _load(
    index: DatasetIndex,
    split: str,
    positions: np.ndarray,
    size: tuple[int, int],
    crop: Callable[[Image.Image], Image.Image] | None,
) -> Tensor:
    """Return images, (n, 3, height, width) uint8, cropped by `crop`; without it all are stored in that size."""
    unique, where = np.unique(positions, return_inverse=True)
    place = {int(position): i for i, position in enumerate(unique)}
    out = np.empty((len(unique), 3, *size), dtype=np.uint8)
    part = index.split(split)

    def fill(item: tuple[int, bytes]) -> None:
        position, data = item
        pixels = None if crop or _orientation(index, part, position) != 1 else jpeg_pixels(data)
        if pixels is not None and pixels.shape[1:] == size:
            out[place[position]] = pixels.numpy()
            return
        image = _decoded(data, index, part, position)
        out[place[position]] = np.asarray(crop(image) if crop else image).transpose(2, 0, 1)

    encoded = read_encoded(index, split, unique)
    if _are_small(part, unique):
        collections.deque(map(fill, encoded), maxlen=0)
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            while chunk := list(itertools.islice(encoded, _DECODED_AT_ONCE)):
                collections.deque(map_in(pool, fill, chunk, _THREADS), maxlen=0)
    return torch.from_numpy(out[where.reshape(-1)])


def _are_small(part: Split, positions: np.ndarray) -> bool:
    """Whether images are so small that one thread reads and decodes them as fast as several."""
    pixels = part.height[positions].astype(np.float64) * part.width[positions]
    return bool(pixels.sum() < _SMALL_PX * len(positions))


def _decoded(data: bytes, index: DatasetIndex, part: Split, position: int) -> Image.Image:
    return decode(data, part.image_name(position), _orientation(index, part, position), index.bits)


def _orientation(index: DatasetIndex, part: Split, position: int) -> int:
    """Return the EXIF orientation from which an image is turned upright; 1 if it stays as stored."""
    return int(part.orientation[position]) if index.upright else 1


class StreamedImages(Dataset[tuple[Any, int]]):
    """Images by position, decoded on access; fit for spawned DataLoader workers.

    Args:
        transform: from a PIL image.
        cached_groups: Parquet row groups kept in memory by each worker.
    """

    def __init__(
        self, index: DatasetIndex, split: str, transform: Callable[[Image.Image], Any], cached_groups: int = 8
    ) -> None:
        self._arguments = index, split, transform, cached_groups
        self.index, self.split, self.part, self.transform = index, split, index.split(split), transform
        self._file_system = functools.cache(
            functools.partial(open_file_system, index.url)
        )  # to open an archive lists its members
        # Of functions, not of methods: an object that holds its own methods would keep its row groups in memory.
        self._starts = functools.cache(functools.partial(_read_starts, index.url))
        self._group = functools.lru_cache(cached_groups)(functools.partial(_read_group, index.url))

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamedImages, self._arguments  # a spawned process opens its own files

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        image = _decoded(self.encoded(position), self.index, self.part, position)
        return self.transform(image), int(self.part.label[position])

    def pixels(self, position: int) -> Tensor:
        """Return an image's pixels, (3, h, w) uint8, upright if the index asks for it.

        Raises:
            DataError: as `encoded`, or if the file cannot be decoded.
        """
        data = self.encoded(position)
        pixels = None if self.is_turned(position) else jpeg_pixels(data)
        if pixels is not None:
            return pixels
        return torch.from_numpy(np.array(_decoded(data, self.index, self.part, position))).permute(2, 0, 1)

    def is_turned(self, position: int) -> bool:
        """Whether an image is turned after decoding, as the index asks for."""
        return _orientation(self.index, self.part, position) != 1

    def encoded(self, position: int) -> bytes:
        """Return the bytes of an image's file.

        Raises:
            DataError: if it has gone or changed since it was indexed.
        """
        if self.index.kind == "folder":
            return _read_file(*self._file_system(), self.part, position)
        if self.index.kind == "builtin":
            return next(read_encoded(self.index, self.split, np.array([position])))[1]
        file, row = self.part.files[self.part.file[position]], int(self.part.row[position])
        starts = self._starts(file)
        group = int(np.searchsorted(starts, row, side="right") - 1)
        if group == len(starts) - 1:
            raise _changed(self.part, position)
        return _unchanged(self._group(file, group)[row - starts[group]], self.part, position)


def _read_starts(url: str, file: str) -> np.ndarray:
    with open_parquet(url, file) as parquet:
        return row_group_starts(parquet)


def _read_group(url: str, file: str, group: int) -> list[bytes | None]:
    with open_parquet(url, file) as parquet:
        return read_row_group(parquet, group, file)[0]


def window_shuffle(index: DatasetIndex, split: str, rng: np.random.Generator, window_groups: int = 8) -> np.ndarray:
    """Return a permutation of all positions for an epoch that reads Parquet in windows of a few row groups.

    Row groups are permuted and rows are shuffled within windows, so that a window's groups are read once; image files
    are permuted freely.
    """
    part = index.split(split)
    if index.kind != "parquet":
        return rng.permutation(len(part))
    groups: list[np.ndarray] = []
    for number in np.unique(part.file):
        with open_parquet(index.url, part.files[number]) as parquet:
            groups += [members for *_, members in _by_row_group(parquet, part, np.flatnonzero(part.file == number))]
    if len(groups) <= window_groups:
        return rng.permutation(len(part))  # one window: the order of a folder with the same images
    order = rng.permutation(len(groups))
    windows = [order[start : start + window_groups] for start in range(0, len(order), window_groups)]
    return np.concatenate([rng.permutation(np.concatenate([groups[group] for group in window])) for window in windows])


def _by_row_group(parquet: ParquetFile, part: Split, positions: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """Return the positions of one file by row group: (group, its first row, positions in their given order)."""
    rows, starts = part.row[positions], row_group_starts(parquet)
    if rows.max() >= starts[-1]:
        raise _changed(part, int(positions[rows.argmax()]))
    of = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(of, kind="stable")
    groups, first = np.unique(of[order], return_index=True)
    parts = np.split(positions[order], first[1:])
    return [(int(group), int(starts[group]), where) for group, where in zip(groups, parts, strict=True)]


def _read_file(fs: Any, root: str, part: Split, position: int) -> bytes:
    file = part.image_name(position)
    try:
        data = read(fs, f"{root}/{file}")
    except FileNotFoundError as exc:
        raise DataError(f"{file} has gone since the set was indexed; restore it, or run again to index it") from exc
    except (OSError, EOFError) as exc:
        # The set may be whole: another worker, or a later try, may read it.
        raise StorageError(f"{root}/{file} cannot be read {explain(exc)}") from exc
    return _unchanged(data, part, position)


def _unchanged(data: bytes | None, part: Split, position: int) -> bytes:
    # Results are filed under the digests of the index: other bytes must not be taken for them.
    if data is None or content_digest(data) != part.digest[position]:
        raise _changed(part, position)
    return data


def _changed(part: Split, position: int) -> ChangedError:
    name = part.image_name(position)
    return ChangedError(f"{name} has changed since the set was indexed; restore it, or run again to index it")
