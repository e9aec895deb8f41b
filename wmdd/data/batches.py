"""Real images as normalised batches: kept decoded when they fit the memory budget, streamed otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wmdd.config.teacher import PretrainConfig
from wmdd.data.decoding.pixels import to_tensor
from wmdd.data.geometry import Geometry
from wmdd.data.images import StreamedImages, load_native_uint8, load_uint8, window_shuffle
from wmdd.data.index import DatasetIndex, Split
from wmdd.data.views import Views, draw_resized_crops, draw_shifts, sample_views
from wmdd.distributed import ALONE, Ranks
from wmdd.errors import WmddError
from wmdd.process.interruptions import accept
from wmdd.process.temporary import shorten_tmpdir
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree

Batch = tuple[Tensor, Tensor]
_decoded: dict[str, tuple[Any, Tensor]] = {}  # the images of each split that were decoded last, with their key


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
    if index.fits("val", geometry.image_size, runtime.memory_bytes):
        key = index.url, index.digest("val"), geometry, ranks, runtime
        whole = _kept("val", key, lambda: runtime.keep(_evaluation_view(index, part, geometry)))
        batches: Iterator[Tensor] = iter(whole.split(batch_size))
    else:
        starts = range(0, len(part), batch_size)
        batches = runtime.ahead(_evaluation_view(index, part[at : at + batch_size], geometry) for at in starts)
    for images, targets in zip(batches, labels.split(batch_size), strict=True):
        yield runtime.images(geometry.pixels.normalize(runtime.send(images))), targets


def training_batches(
    index: DatasetIndex,
    geometry: Geometry,
    section: PretrainConfig,
    seeds: SeedTree,
    epoch: int,
    runtime: Runtime,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Yield this process's part of each batch of an epoch: (augmented, normalised, on the device; labels).

    Order and crops are drawn for the whole epoch before the first image is read, so they depend neither on the
    processes that train together nor on those that decode.
    """
    rng = seeds.child("epoch", epoch).numpy()
    if index.fits("train", geometry.image_size, runtime.memory_bytes):
        yield from _from_memory(index, geometry, section, rng, runtime, ranks)
        return
    order = _repeated(window_shuffle(index, "train", rng), section.repeated_augmentation)
    dataset = _Viewed(index, order, _draw(rng, section, index.train, order), geometry.image_size)
    options: dict[str, Any] = {}
    if runtime.loaders:
        options = {"num_workers": runtime.loaders, "multiprocessing_context": "spawn", "worker_init_fn": accept}
        shorten_tmpdir()
    places = range(len(order))
    parts = [list(places[ranks.part(batch)]) for batch in batch_places(len(order), section.batch_size, ranks)]
    loader = DataLoader(dataset, batch_sampler=parts, **options)
    for images, labels in runtime.ahead(without_traceback(loader)):
        yield runtime.images(geometry.pixels.normalize(runtime.send(images))), runtime.send(labels)


def without_traceback(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches; raise an error of a loading process, whose text is a whole traceback, as it was raised there."""
    try:
        yield from batches
    except WmddError as exc:
        line = str(exc).strip().rpartition("\n")[2]
        raise type(exc)(line.removeprefix(f"{type(exc).__module__}.{type(exc).__name__}: ")) from exc


def batch_places(count: int, batch_size: int, ranks: Ranks = ALONE) -> list[range]:
    """Return the batches of an epoch of `count` images, over all processes.

    A last batch that leaves a process with fewer than two images is left out: batch-norm has no variance over one
    image of 1 x 1 positions.
    """
    batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < 2 * ranks.size else batches


def _from_memory(
    index: DatasetIndex,
    geometry: Geometry,
    section: PretrainConfig,
    rng: np.random.Generator,
    runtime: Runtime,
    ranks: Ranks,
) -> Iterator[Batch]:
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
        pixels = geometry.pixels.normalize(runtime.send(runtime.pick(images, rows[part])))
        yield runtime.images(sample_views(pixels, views[part], geometry.image_size)), labels[part]


def _repeated(order: np.ndarray, times: int) -> np.ndarray:
    """Return fewer images, each `times` in a row, so that the epoch keeps its length (Hoffer et al., 2020)."""
    return np.repeat(order, times)[: len(order)]


def _draw(rng: np.random.Generator, section: PretrainConfig, split: Split, order: np.ndarray) -> Views:
    size = (split.height[order].astype(np.int64), split.width[order].astype(np.int64))
    if section.pad_px:
        return draw_shifts(rng, len(order), size, section.pad_px, flip=section.flip)
    return draw_resized_crops(rng, len(order), size, section.crop_scale, flip=section.flip)


def _kept(split: str, key: tuple[Any, ...], decode: Callable[[], Tensor]) -> Tensor:
    """Return what was decoded of a split for the same key, or decode it now."""
    kept = _decoded.get(split)
    if kept is None or kept[0] != key:
        kept = _decoded[split] = key, decode()
    return kept[1]


def forget_decoded() -> None:
    """Free the decoded images in memory, because the device is full."""
    _decoded.clear()


def _evaluation_view(index: DatasetIndex, positions: np.ndarray, geometry: Geometry) -> Tensor:
    return load_uint8(index, "val", positions, size=geometry.image_size, crop_ratio=geometry.crop_ratio)


class _Viewed(Dataset[tuple[Tensor, int]]):
    """Crops that are already drawn, cut from originals."""

    def __init__(self, index: DatasetIndex, order: np.ndarray, views: Views, size: int) -> None:
        self.images = StreamedImages(index, "train", torch.nn.Identity())
        self.order, self.views, self.size = order, views, size

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        import torchvision.transforms.v2.functional as VF

        image, label = self.images[int(self.order[place])]
        top, left, height, width = self.views.box[place].tolist()
        cut = VF.resized_crop(image, top, left, height, width, [self.size, self.size], antialias=True)
        cut = VF.horizontal_flip(cut) if self.views.flip[place] else cut
        return to_tensor(cut), label
