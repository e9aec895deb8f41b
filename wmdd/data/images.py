"""Read and decode real images, in any order, with bounded memory. A broken one is named."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from wmdd.data.index import DatasetIndex, Split
from wmdd.data.pixels import evaluation_crop, to_tensor
from wmdd.data.sources import builtin_images, open_file_system, open_parquet, read_row_group, row_group_starts
from wmdd.errors import DataError


def decode(data: bytes, name: str) -> Image.Image:
    """Decode an image file's bytes to RGB.

    Raises:
        DataError: if it is broken or truncated; names it.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(f"{name} is broken ({' '.join(str(exc).split())}); remove or replace it") from exc
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey: PIL's own conversion would clip everything above 255 to white.
        values = np.asarray(image, dtype=np.float64)
        scale = 257.0 if image.mode != "F" and values.max() > 255 else 1.0
        image = Image.fromarray(np.clip(np.rint(values / scale), 0, 255).astype(np.uint8))
    return image.convert("RGB")


def image_name(index: DatasetIndex, split: str, position: int) -> str:
    """Name an image for a person."""
    part = _part(index, split)
    file, row = part.files[part.file[position]], int(part.row[position])
    return file if row < 0 else f"{file} row {row}"


def read_encoded(index: DatasetIndex, split: str, positions: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yield (position, encoded bytes); each Parquet row group is read once, and one is in memory at a time.

    Raises:
        DataError: if a file has gone or changed since it was indexed.
    """
    part = _part(index, split)
    if index.kind == "builtin":
        images = builtin_images(index.url)[0]
        yield from ((int(position), images[part.row[position]]) for position in positions)
        return
    if index.kind == "folder":
        fs, root = open_file_system(index.url)
        for position in positions:
            yield int(position), _read_file(fs, root, part.files[part.file[position]])
        return
    for (file, group), members in _by_row_group(index, part, positions).items():
        with open_parquet(index.url, part.files[file]) as parquet:
            encoded, _ = read_row_group(parquet, group, part.files[file])
        start = row_group_starts(index.url, part.files[file])[group]
        for position in members:
            yield position, encoded[part.row[position] - start] or b""


def load_uint8(index: DatasetIndex, split: str, positions: np.ndarray, *, size: int, crop_ratio: float) -> Tensor:
    """Load images as networks see them in evaluation: resized, centre-cropped, (n, 3, size, size) uint8.

    Args:
        positions: which images; the result keeps their order, doubles included.
        crop_ratio: the shorter side is resized to size / crop_ratio before the crop.
    """
    return _load(index, split, positions, lambda image: evaluation_crop(image, size, crop_ratio), (size, size))


def load_native_uint8(index: DatasetIndex, split: str, positions: np.ndarray) -> Tensor:
    """Load images of one common size as they are, (n, 3, h, w) uint8."""
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
        image = transform(decode(data, image_name(index, split, position)))
        out[place[position]] = to_tensor(image)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for chunk in _chunks(read_encoded(index, split, unique), 256):
            list(pool.map(fill, chunk))
    return out[torch.from_numpy(where.reshape(-1))]


def _chunks(items: Iterator[tuple[int, bytes]], length: int) -> Iterator[list[tuple[int, bytes]]]:
    chunk: list[tuple[int, bytes]] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == length:
            yield chunk
            chunk = []
    yield chunk


class StreamedImages(Dataset[tuple[Any, int]]):
    """Images by position, decoded when asked for; fit for DataLoader workers.

    Args:
        transform: from a PIL image.
        cached_groups: Parquet row groups kept in memory by each worker.
    """

    def __init__(
        self, index: DatasetIndex, split: str, transform: Callable[[Image.Image], Any], cached_groups: int = 8
    ) -> None:
        self.index, self.split, self.transform, self.cached_groups = index, split, transform, cached_groups
        self._groups: OrderedDict[tuple[int, int], list[bytes | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(_part(self.index, self.split))

    def __getitem__(self, position: int) -> tuple[Any, int]:
        part = _part(self.index, self.split)
        image = decode(self._encoded(part, position), image_name(self.index, self.split, position))
        return self.transform(image), int(part.label[position])

    def _encoded(self, part: Split, position: int) -> bytes:
        if self.index.kind != "parquet":
            return next(read_encoded(self.index, self.split, np.array([position])))[1]
        file, row = int(part.file[position]), int(part.row[position])
        starts = row_group_starts(self.index.url, part.files[file])
        group = int(np.searchsorted(starts, row, side="right") - 1)
        if (file, group) not in self._groups:
            with open_parquet(self.index.url, part.files[file]) as parquet:
                self._groups[file, group] = read_row_group(parquet, group, part.files[file])[0]
            if len(self._groups) > self.cached_groups:
                self._groups.popitem(last=False)
        self._groups.move_to_end((file, group))
        return self._groups[file, group][row - starts[group]] or b""


def window_shuffle(index: DatasetIndex, split: str, rng: np.random.Generator, window_groups: int = 8) -> np.ndarray:
    """Give an epoch's permutation of all positions that reads Parquet in windows of a few row groups.

    Row groups are permuted and rows are shuffled within windows, so that a window's groups are read once; image files
    are permuted freely.
    """
    part = _part(index, split)
    if index.kind != "parquet":
        return rng.permutation(len(part))
    groups = list(_by_row_group(index, part, np.arange(len(part))).values())
    order = rng.permutation(len(groups))
    windows = [order[start : start + window_groups] for start in range(0, len(order), window_groups)]
    return np.concatenate([rng.permutation(np.concatenate([groups[group] for group in window])) for window in windows])


def _by_row_group(index: DatasetIndex, part: Split, positions: np.ndarray) -> dict[tuple[int, int], list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for file in np.unique(part.file[positions]):
        members = positions[part.file[positions] == file]
        starts = row_group_starts(index.url, part.files[file])
        of = np.searchsorted(starts, part.row[members], side="right") - 1
        for position, group in zip(members.tolist(), of.tolist(), strict=True):
            groups.setdefault((int(file), group), []).append(position)
    return groups


def _read_file(fs: Any, root: str, file: str) -> bytes:
    try:
        data: bytes = fs.cat_file(f"{root}/{file}")
    except OSError as exc:
        raise DataError(f"{file} has gone since the set was indexed; restore it, or run again to index anew") from exc
    return data


def _part(index: DatasetIndex, split: str) -> Split:
    return index.train if split == "train" else index.val
