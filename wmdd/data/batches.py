"""Real images as normalised batches: kept decoded when they fit the memory budget, streamed otherwise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from wmdd.config.teacher import PretrainConfig
from wmdd.data.decoded_views import DecodedViews
from wmdd.data.geometry import Geometry
from wmdd.data.images import load_native_uint8, load_uint8, window_shuffle
from wmdd.data.index import DatasetIndex, Split
from wmdd.data.streaming import StreamedViews
from wmdd.data.views import Views, draw_resized_crops, draw_shifts, sample_views
from wmdd.distributed import ALONE, Ranks
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree

Batch = tuple[Tensor, Tensor]
T = TypeVar("T")
_decoded: dict[str, tuple[Any, Any]] = {}  # the images of each split that were decoded last, with their key


def class_images(index: DatasetIndex, class_id: int, geometry: Geometry, rows: np.ndarray | None = None) -> Tensor:
    """Return a class's training images as networks see them in evaluation, (n, 3, size, size) uint8.

    Args:
        rows: positions within the class; None for all.
    """
    positions = index.train.of_class(class_id)
    positions = positions if rows is None else positions[rows]
    return load_uint8(index, "train", positions, size=geometry.image_size, crop_ratio=geometry.crop_ratio)


def validation_batches(
    index: DatasetIndex, geometry: Geometry, batch_size: int, runtime: Runtime, ranks: Ranks = ALONE
) -> Iterator[Batch]:
    """Yield this process's part of the validation images: (normalised, on the device; labels)."""
    part = np.arange(len(index.val))[ranks.part(range(len(index.val)))]
    labels = runtime.send(torch.from_numpy(index.val.label[part].astype(np.int64)))
    key = index.url, index.digest("val"), geometry, ranks, runtime
    if index.fits("val", geometry.image_size, runtime.memory_bytes):
        whole: Tensor = _kept("val", key, lambda: runtime.keep(_evaluation_view(index, part, geometry)))
        batches: Iterator[Tensor] = iter(whole.split(batch_size))
    else:
        decode = functools.partial(_evaluation_views, index, part, geometry)
        views: DecodedViews = _kept("val", key, lambda: DecodedViews(len(part), geometry.image_size, decode))
        starts = range(0, len(part), batch_size)
        batches = runtime.ahead(views.rows(at, min(at + batch_size, len(part))) for at in starts)
    for images, targets in zip(batches, labels.split(batch_size), strict=True):
        yield runtime.images(geometry.pixels.normalize(runtime.send(images))), targets


class TrainingBatches:
    """The batches on which a teacher is trained; of several processes, this one's part of each.

    Args:
        index: of the set.
        geometry: size and normalisation of the images.
        section: batch size, crops and decoding.
        seeds: of all epochs.
        runtime: device, memory for decoded images, and loaders.
        ranks: the processes that train together.
    """

    def __init__(
        self,
        index: DatasetIndex,
        geometry: Geometry,
        section: PretrainConfig,
        seeds: SeedTree,
        runtime: Runtime,
        ranks: Ranks = ALONE,
    ) -> None:
        self._index, self._geometry, self._section = index, geometry, section
        self._seeds, self._runtime, self._ranks = seeds, runtime, ranks
        self._streamed: StreamedViews | None = None
        if not index.fits("train", geometry.image_size, runtime.memory_bytes):
            on_gpu = section.decode == "gpu"
            self._streamed = StreamedViews(index, geometry.image_size, runtime, on_gpu=on_gpu)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 0: views, (n, 3, size, size) float32, and labels, (n,) int64.

        The views are normalised, and both are on the device.

        Order and crops are drawn for the whole epoch before the first image is read, so they depend neither on the
        processes that train together nor on those that decode.
        """
        rng = self._seeds.child("epoch", epoch).numpy()
        return self._from_memory(rng) if self._streamed is None else self._from_files(self._streamed, rng)

    def _from_files(self, streamed: StreamedViews, rng: np.random.Generator) -> Iterator[Batch]:
        index, section, runtime = self._index, self._section, self._runtime
        order = _repeated(window_shuffle(index, "train", rng), section.repeated_augmentation)
        places = range(len(order))
        parts = (places[self._ranks.part(batch)] for batch in batch_places(len(order), section.batch_size, self._ranks))
        batches = streamed.epoch(order, _draw(rng, section, index.train, order), parts)
        for images, labels in runtime.ahead(batches):
            yield runtime.images(self._geometry.pixels.normalize(runtime.send(images))), runtime.send(labels)

    def _from_memory(self, rng: np.random.Generator) -> Iterator[Batch]:
        index, section, runtime, ranks = self._index, self._section, self._runtime, self._ranks
        key = index.url, index.digest("train"), runtime
        everything = np.arange(len(index.train))
        images = _kept("train", key, lambda: runtime.keep(load_native_uint8(index, "train", everything)))
        order = _repeated(rng.permutation(len(images)), section.repeated_augmentation)
        # The whole epoch at once, so that no step waits for a copy.
        views = _draw(rng, section, index.train, order).to(runtime)
        labels = runtime.send(torch.from_numpy(index.train.label[order].astype(np.int64)))
        rows = torch.from_numpy(order)
        rows = runtime.send(rows) if images.is_cuda else rows
        for batch in batch_places(len(order), section.batch_size, ranks):
            part = ranks.part(batch)
            pixels = self._geometry.pixels.normalize(runtime.send(runtime.pick(images, rows[part])))
            yield runtime.images(sample_views(pixels, views[part], self._geometry.image_size)), labels[part]


def batch_places(count: int, batch_size: int, ranks: Ranks = ALONE) -> list[range]:
    """Return the batches of an epoch of `count` images, over all processes.

    A last batch that leaves a process with fewer than two images is left out: batch-norm has no variance over one
    image of 1 x 1 positions.
    """
    batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < 2 * ranks.size else batches


def _repeated(order: np.ndarray, times: int) -> np.ndarray:
    """Return fewer images, each `times` in a row, so that the epoch keeps its length (Hoffer et al., 2020)."""
    return np.repeat(order, times)[: len(order)]


def _draw(rng: np.random.Generator, section: PretrainConfig, split: Split, order: np.ndarray) -> Views:
    size = (split.height[order].astype(np.int64), split.width[order].astype(np.int64))
    if section.pad_px:
        return draw_shifts(rng, len(order), size, section.pad_px, flip=section.flip)
    return draw_resized_crops(rng, len(order), size, section.crop_scale, flip=section.flip)


def _kept(split: str, key: tuple[Any, ...], decode: Callable[[], T]) -> T:
    """Return what was decoded of a split for the same key, or decode it now."""
    kept = _decoded.get(split)
    if kept is None or kept[0] != key:
        kept = _decoded[split] = key, decode()
    value: T = kept[1]
    return value


def forget_decoded() -> None:
    """Free the decoded images in memory, because the device is full."""
    _decoded.clear()


def _evaluation_views(index: DatasetIndex, part: np.ndarray, geometry: Geometry, start: int, stop: int) -> Tensor:
    return _evaluation_view(index, part[start:stop], geometry)


def _evaluation_view(index: DatasetIndex, positions: np.ndarray, geometry: Geometry) -> Tensor:
    return load_uint8(index, "val", positions, size=geometry.image_size, crop_ratio=geometry.crop_ratio)
