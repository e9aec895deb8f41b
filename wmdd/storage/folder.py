"""A folder at a local path or fsspec URL: whole files are read, written in one piece, listed and removed."""

from __future__ import annotations

import contextlib
import os
import posixpath
import uuid
from collections.abc import Iterator
from typing import Any

from wmdd.errors import StorageError
from wmdd.process.home import expand_home
from wmdd.storage.filesystem import entries, explain, is_local, open_fs, read, remove, write


class Folder:
    """A folder, which need not exist: it is created with its first file.

    Names of files are relative to it, with ``/`` between their parts.

    Args:
        url: local path or fsspec URL.

    Raises:
        ConfigError: if there is no such file system, or it cannot be reached.
        StorageError: by each method, if the storage still fails after several tries; names path and reason.
    """

    def __init__(self, url: str) -> None:
        self.url = absolute_url(url)
        self.fs, self.root = open_fs(self.url)

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's own file system."""
        return is_local(self.fs)

    def path(self, *names: str) -> str:
        """Return the path of a file or folder below, as the file system takes it."""
        return posixpath.join(self.root, *names)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it does not exist; a storage that fails is not an empty one."""
        path = self.path(name)
        with _explained(path, "read"), contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return read(self.fs, path)
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file in one piece: readers see the old content or the new, never a part."""
        path = self.path(name)
        with _explained(path, "written"):
            write(self.fs, path, data)

    def remove(self, name: str) -> None:
        """Remove a file; an absent one is no error."""
        path = self.path(name)
        with _explained(path, "removed"):
            remove(self.fs, path)

    def entries(self, name: str = "") -> list[dict[str, Any]]:
        """Return what is in a folder below, as fsspec lists it with ``detail``; an absent one is empty."""
        path = self.path(name) if name else self.root
        with _explained(path, "read"):
            return entries(self.fs, path)

    def check_writable(self, name: str = "") -> None:
        """Write an empty file into a folder below and remove it, before work whose result could not be kept."""
        probe = posixpath.join(name, f"probe-{uuid.uuid4().hex}")
        self.write(probe, b"")
        self.remove(probe)


@contextlib.contextmanager
def _explained(path: str, verb: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as exc:
        raise StorageError(f"{path} cannot be {verb} {explain(exc)}") from exc


def absolute_url(url: str) -> str:
    """Return a local path as an absolute one, which means the same to a worker in another folder; URLs stay."""
    url = expand_home(url)
    return url if "://" in url or url.startswith("builtin:") else os.path.abspath(url)
