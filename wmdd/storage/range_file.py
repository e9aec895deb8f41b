"""A file of any file system as Python's readers want it."""

from __future__ import annotations

import io
from typing import Any

from wmdd.storage.archives import read_member
from wmdd.storage.filesystem import again


class RangeFile(io.RawIOBase):
    """A file that is read in parts, each of them retried if it fails; holds no connection."""

    def __init__(self, fs: Any, path: str) -> None:
        super().__init__()
        self._fs, self._path, self._position = fs, path, 0
        self._size = int(again(fs.info, path)["size"])

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next byte, and return it."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return `size` bytes, fewer at the end only; all that follow if it is negative or None."""
        last = self._size if size is None or size < 0 else min(self._size, self._position + size)
        if last <= self._position:
            return b""
        data: bytes = again(read_member, self._fs, self._path, self._position, last)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return the number of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
