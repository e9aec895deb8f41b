"""Views of real images that do not fit into memory, decoded once and then read from a temporary file."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from typing import IO

import torch
from torch import Tensor

SHARE = 1 / 4  # of the disk's room that a file may take; other workers of the node have files, too


class DecodedViews:
    """Images as networks see them in evaluation; decoded each time if the disk of temporary files has no room.

    Args:
        count: number of images.
        size: height and width, px.
        decode: from the first row and the one after the last to their images, (n, 3, size, size) uint8.
    """

    def __init__(self, count: int, size: int, decode: Callable[[int, int], Tensor]) -> None:
        self._decode, self._shape, self._bytes = decode, (3, size, size), 3 * size**2
        self._written = 0  # rows from the first one on
        self._file: IO[bytes] | None = None
        with contextlib.suppress(OSError):  # a machine may have no folder for temporary files
            if count * self._bytes <= shutil.disk_usage(tempfile.gettempdir()).free * SHARE:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it goes with this object)

    def rows(self, start: int, stop: int) -> Tensor:
        """Return some images, (n, 3, size, size) uint8.

        Raises:
            DataError, StorageError: as `decode`.
        """
        if self._file and stop <= self._written:
            self._file.seek(start * self._bytes)
            data = bytearray(self._file.read((stop - start) * self._bytes))
            return torch.frombuffer(data, dtype=torch.uint8).view(-1, *self._shape)
        views = self._decode(start, stop)
        if self._file and start <= self._written:
            self._append(self._file, views[self._written - start :])
        return views

    def _append(self, file: IO[bytes], views: Tensor) -> None:
        try:
            file.seek(self._written * self._bytes)
            file.write(views.contiguous().numpy().data)
            file.flush()
            self._written += len(views)
        except OSError:  # the disk is full
            self._file = None
