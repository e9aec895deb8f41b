"""Views of training images that are not kept in memory: cut by loading processes that stay, or on the GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wmdd.data.decoding.jpeg import decode_on_gpu, suits_gpu
from wmdd.data.images import StreamedImages
from wmdd.data.index import DatasetIndex
from wmdd.data.views import Views
from wmdd.errors import WmddError
from wmdd.process.interruptions import accept
from wmdd.process.temporary import shorten_tmpdir
from wmdd.runtime import Runtime, is_out_of_memory

Batch = tuple[Tensor, Tensor]
View = tuple[int, ...]  # an image's position, its crop (top, left, height, width), and 1 for a flip
Sample = tuple[bytes | np.ndarray, View]  # an encoded JPEG file, or the view that was cut from another file


class StreamedViews:
    """Views of training images, read from their files in each epoch, of which there is one at a time.

    Loading processes run until the object is deleted.

    Args:
        index: of the set.
        size: height and width of a view, px.
        runtime: its `loaders` are the number of processes; 0 for this one.
        on_gpu: decode JPEG files on the GPU where that is possible, and cut their views there.
    """

    def __init__(self, index: DatasetIndex, size: int, runtime: Runtime, *, on_gpu: bool = False) -> None:
        self._size, self._runtime = size, runtime
        self._images = StreamedImages(index, "train", torch.nn.Identity())
        self._batches = _EpochBatches()
        options: dict[str, Any] = {}
        if runtime.loaders:
            options = {"num_workers": runtime.loaders, "persistent_workers": True}
            options |= {"multiprocessing_context": "spawn", "worker_init_fn": accept}
            shorten_tmpdir()
        if on_gpu:
            options["collate_fn"] = _collate
        # Views are sent to the processes with each batch, which therefore serve every epoch.
        dataset = _Views(self._images, size, encoded=on_gpu)
        # Its own generator, since the processes' seeds would be drawn from torch's, whose numbers others get.
        self._loader = DataLoader(dataset, batch_sampler=self._batches, generator=torch.Generator(), **options)

    def epoch(self, order: np.ndarray, views: Views, batches: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """Yield the views of each batch, (n, 3, size, size) uint8, and its labels, (n,) int64 on the CPU.

        The views are on the device if it decodes, else on the CPU.

        Args:
            order: (n,) positions of the epoch's images.
            views: crop and flip of each, in that order.
            batches: rows of both for each batch.

        Raises:
            DataError: if a file has gone, has changed or cannot be decoded.
            StorageError: if a file cannot be read.
        """
        torch.empty((), dtype=torch.int64).random_()  # as a new DataLoader did in each epoch: later draws stay the same
        self._batches.rows = np.column_stack([order, views.box.numpy(), views.flip.numpy()])
        self._batches.places = list(batches)
        for images, labels in without_traceback(self._loader):
            yield images if isinstance(images, Tensor) else self._cut(images), labels

    def _cut(self, items: list[Sample]) -> Tensor:
        """Return views, those of JPEG files decoded and cut on the device."""
        encoded = [(data, view) for data, view in items if isinstance(data, bytes)]
        try:
            decoded = decode_on_gpu([data for data, _ in encoded], self._runtime.device)
        except RuntimeError as exc:  # it does not say which file cannot be decoded
            if is_out_of_memory(exc):
                raise
            decoded = [self._runtime.send(self._images.pixels(view[0])) for _, view in encoded]
        whole = iter(decoded)
        return torch.stack([self._view(data, view, whole) for data, view in items])

    def _view(self, data: bytes | np.ndarray, view: View, decoded: Iterator[Tensor]) -> Tensor:
        if isinstance(data, bytes):
            return cut(next(decoded), view, self._size)
        return self._runtime.send(torch.from_numpy(data))


class _EpochBatches:
    """Sampler of the DataLoader: the batches of the epoch under way, each a list of views.

    Attributes:
        rows: (n, 6) of all views of the epoch.
        places: of each batch, in `rows`.
    """

    def __init__(self) -> None:
        self.rows = np.empty((0, 6), dtype=np.int64)
        self.places: list[Sequence[int]] = []

    def __iter__(self) -> Iterator[list[View]]:
        return ([tuple(view) for view in self.rows[list(batch)].tolist()] for batch in self.places)

    def __len__(self) -> int:
        return len(self.places)


class _Views(Dataset[tuple[Any, int]]):
    """Views cut from originals; fit for spawned processes.

    Args:
        encoded: leave files encoded that suit a GPU's decoder.
    """

    def __init__(self, images: StreamedImages, size: int, *, encoded: bool) -> None:
        self.images, self.size, self.encoded = images, size, encoded

    def __getitem__(self, view: View) -> tuple[Any, int]:
        label = int(self.images.part.label[view[0]])
        if not self.encoded:
            return self._cut(view), label
        # Bytes and arrays, since each tensor would hold a file descriptor on its way between processes.
        data = self.images.encoded(view[0])
        stays = suits_gpu(data) and not self.images.is_turned(view[0])
        return (data if stays else self._cut(view).numpy(), view), label

    def _cut(self, view: View) -> Tensor:
        return cut(self.images.pixels(view[0]), view, self.size)


def cut(pixels: Tensor, view: View, size: int) -> Tensor:
    """Return a (3, size, size) view of (3, h, w) uint8 pixels, on their device; black outside the image.

    Args:
        view: its first number, the position of the image, is not used.
        size: px.
    """
    _, top, left, height, width, flip = view
    part = pixels[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    top_pad, left_pad = min(max(-top, 0), height), min(max(-left, 0), width)
    bottom_pad, right_pad = height - top_pad - part.shape[1], width - left_pad - part.shape[2]
    if top_pad or left_pad or bottom_pad or right_pad:
        part = F.pad(part, (left_pad, right_pad, top_pad, bottom_pad))
    if part.shape[1:] != (size, size):
        part = _resized(part, size)
    return part.flip(2) if flip else part


def _resized(pixels: Tensor, size: int) -> Tensor:
    # On a CPU torch has a fast kernel for uint8 in the channels-last format; on a GPU it has none for uint8.
    values = pixels.float() if pixels.is_cuda else pixels
    values = values[None].contiguous(memory_format=torch.channels_last)
    values = F.interpolate(values, size=(size, size), mode="bilinear", antialias=True)[0]
    return values.round().clamp(0, 255).to(torch.uint8) if pixels.is_cuda else values


def _collate(items: list[tuple[Sample, int]]) -> tuple[list[Sample], Tensor]:
    return [item for item, _ in items], torch.tensor([label for _, label in items])


def without_traceback(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches; raise an error of a loading process, whose text is a whole traceback, as it was raised there."""
    try:
        yield from batches
    except WmddError as exc:
        line = str(exc).strip().rpartition("\n")[2]
        raise type(exc)(line.removeprefix(f"{type(exc).__module__}.{type(exc).__name__}: ")) from exc
