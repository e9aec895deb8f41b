"""A file of any file system as Python's readers want it."""

from __future__ import annotations

from typing import Any

from fsspec.spec import AbstractBufferedFile

from wmdd.storage.archives import read_member
from wmdd.storage.filesystem import again


class RangeFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file that is read in parts, each of them retried if it fails; holds no connection."""

    def __init__(self, fs: Any, path: str) -> None:
        super().__init__(fs, path, cache_type="none", size=int(again(fs.info, path)["size"]))

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = again(read_member, self.fs, self.path, start, min(end, self.size))
        return data
