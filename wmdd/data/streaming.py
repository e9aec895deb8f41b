"""Views of training images that do not fit into memory: cut from originals by processes that stay, or on the GPU."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wmdd.data.decoding.jpeg import decode_on_gpu, is_plain
from wmdd.data.images import StreamedImages
from wmdd.data.index import DatasetIndex
from wmdd.data.views import Views
from wmdd.errors import WmddError
from wmdd.process.interruptions import accept
from wmdd.process.temporary import shorten_tmpdir
from wmdd.runtime import Runtime

Batch = tuple[Tensor, Tensor]
View = tuple[int, ...]  # an image's position, its crop (top, left, height, width), and 1 for a flip
Sent = tuple[bytes | np.ndarray, View]  # a JPEG file, or what was cut from another file


class StreamedViews:
    """Views of training images, epoch after epoch, by the same loading processes.

    Args:
        size: height and width of a view, px.
        on_gpu: decode plain JPEG files on the GPU, whose pixels differ slightly, and cut their views there.
    """

    def __init__(self, index: DatasetIndex, size: int, runtime: Runtime, *, on_gpu: bool = False) -> None:
        self._size, self._runtime = size, runtime
        self._images = StreamedImages(index, "train", torch.nn.Identity())
        self._drawn = _Drawn()
        options: dict[str, Any] = {}
        if runtime.loaders:
            options = {"num_workers": runtime.loaders, "persistent_workers": True}
            options |= {"multiprocessing_context": "spawn", "worker_init_fn": accept}
            shorten_tmpdir()
        if on_gpu:
            options["collate_fn"] = _listed
        # Processes get the views themselves, and so need to know nothing of an epoch.
        dataset = _Views(self._images, size, encoded=on_gpu)
        self._loader = DataLoader(dataset, batch_sampler=self._drawn, **options)

    def epoch(self, order: np.ndarray, views: Views, batches: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """Yield the views, (n, 3, size, size) uint8, and the labels of each batch.

        Args:
            order: positions of the epoch's images.
            views: of each of these.
            batches: rows of both.
        """
        self._drawn.rows = np.column_stack([order, views.box.numpy(), views.flip.numpy()])
        self._drawn.batches = list(batches)
        for images, labels in without_traceback(self._loader):
            yield images if isinstance(images, Tensor) else self._cut(images), labels

    def _cut(self, items: list[Sent]) -> Tensor:
        """Return views, those of JPEG files decoded and cut on the device."""
        encoded = [(data, view) for data, view in items if isinstance(data, bytes)]
        try:
            decoded = decode_on_gpu([data for data, _ in encoded], self._runtime.device)
        except RuntimeError:  # says not which file it cannot decode
            decoded = [self._runtime.send(self._images.pixels(view[0])) for _, view in encoded]
        whole = iter(decoded)
        return torch.stack([self._view(data, view, whole) for data, view in items])

    def _view(self, data: bytes | np.ndarray, view: View, decoded: Iterator[Tensor]) -> Tensor:
        if isinstance(data, bytes):
            return cut(next(decoded), view, self._size)
        return self._runtime.send(torch.from_numpy(data))


class _Drawn:
    """The batches of an epoch, each a list of views."""

    def __init__(self) -> None:
        self.rows = np.empty((0, 6), dtype=np.int64)
        self.batches: list[Sequence[int]] = []

    def __iter__(self) -> Iterator[list[View]]:
        return ([tuple(view) for view in self.rows[list(batch)].tolist()] for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Views(Dataset[tuple[Any, int]]):
    """Views cut from originals; fit for spawned processes.

    Args:
        encoded: leave plain JPEG files encoded.
    """

    def __init__(self, images: StreamedImages, size: int, *, encoded: bool) -> None:
        self.images, self.size, self.encoded = images, size, encoded

    def __getitem__(self, view: View) -> tuple[Any, int]:
        label = int(self.images.part.label[view[0]])
        if not self.encoded:
            return self._cut(view), label
        # Bytes and arrays, since each tensor would hold a file descriptor on its way between processes.
        data = self.images.encoded(view[0])
        return (data if _is_decoded_on_gpu(data) else self._cut(view).numpy(), view), label

    def _cut(self, view: View) -> Tensor:
        return cut(self.images.pixels(view[0]), view, self.size)


def cut(pixels: Tensor, view: View, size: int) -> Tensor:
    """Return the (3, size, size) view of (3, h, w) uint8 pixels, on their device; black outside the image."""
    _, top, left, height, width, flip = view
    part = pixels[:, max(top, 0) : top + height, max(left, 0) : left + width]
    above, before = max(-top, 0), max(-left, 0)
    below, behind = height - above - part.shape[1], width - before - part.shape[2]
    if above or before or below or behind:
        part = F.pad(part, (before, behind, above, below))
    if part.shape[1:] != (size, size):
        part = _resized(part, size)
    return part.flip(2) if flip else part


def _resized(pixels: Tensor, size: int) -> Tensor:
    # On a CPU torch has a fast kernel for uint8 values, channel after channel; on a GPU it has none for them.
    values = pixels.float() if pixels.is_cuda else pixels
    values = values[None].contiguous(memory_format=torch.channels_last)
    values = F.interpolate(values, size=(size, size), mode="bilinear", antialias=True)[0]
    return values.round().clamp(0, 255).to(torch.uint8) if pixels.is_cuda else values


def _is_decoded_on_gpu(data: bytes) -> bool:
    if not is_plain(data):
        return False
    with Image.open(io.BytesIO(data)) as image:
        return image.mode in ("RGB", "L")


def _listed(items: list[tuple[Sent, int]]) -> tuple[list[Sent], Tensor]:
    return [item for item, _ in items], torch.tensor([label for _, label in items])


def without_traceback(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches; raise an error of a loading process, whose text is a whole traceback, as it was raised there."""
    try:
        yield from batches
    except WmddError as exc:
        line = str(exc).strip().rpartition("\n")[2]
        raise type(exc)(line.removeprefix(f"{type(exc).__module__}.{type(exc).__name__}: ")) from exc
