"""Archives as read-only file systems: damaged ones are recognised, members are read one at a time."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.archive import AbstractArchiveFileSystem

from wmdd.text import one_line

_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)
# Texts of the errors that bz2 and the readers of compressed files raise as plain OSError or EOFError.
_DAMAGED_WORDS = ("Invalid data stream", "end-of-stream marker")
_COMPRESSION = {".tgz": "gzip", ".tbz": "bz2", ".tbz2": "bz2", ".txz": "xz"}  # fsspec knows .gz, .bz2 and .xz
_AGAIN = "download it again, or restore it"
_one_at_a_time = threading.Lock()


class ArchiveError(OSError):
    """An archive that cannot be read, with what the user can do; a retry does not help."""

    def __init__(self, what: str, remedy: str = _AGAIN) -> None:
        super().__init__(f"the archive {what}")
        self.remedy = remedy


def open_archive(url: str) -> tuple[Any, str]:
    """Return the file system of a URL with ``::``, and the path within it.

    Raises:
        ArchiveError: if it leads into an archive that is damaged or empty.
    """
    file = url.rpartition("::")[2].lower()
    compression = next((name for suffix, name in _COMPRESSION.items() if file.endswith(suffix)), None)
    with _errors_named():
        fs, root = fsspec.core.url_to_fs(url, **({"tar": {"compression": compression}} if compression else {}))
        if isinstance(fs, AbstractArchiveFileSystem):
            _list(fs)
    return fs, root


def _list(fs: Any) -> None:
    """List an archive once: it does so at the first call, and of two threads that call at once, one sees half of it."""
    try:
        fs.info("")
    except FileNotFoundError:
        raise ArchiveError("is empty", "give one that holds the set") from None
    if fs.protocol == "tar":  # tarfile takes a damaged header for the end
        fs.fo.seek(fs.tar.offset)
        if fs.fo.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ArchiveError(f"is damaged after {len(fs.index)} members")
        while fs.fo.read(2**20):  # the checksum of a compressed one is at its end
            pass


def members(fs: Any, root: str) -> dict[str, dict[str, Any]] | None:
    """Return all files below a folder of an archive by their paths; None for another file system, or a file.

    To list each of its folders, as elsewhere, would iterate over all members once for each folder.
    """
    if not isinstance(fs, AbstractArchiveFileSystem) or fs.info(root)["type"] != "directory":
        return None
    prefix = f"{root.rstrip('/')}/" if root.strip("/") else ""
    listed = ((path.rstrip("/"), info) for path, info in list(fs.dir_cache.items()))
    inner = ((path, info) for path, info in listed if info["type"] != "directory" and not path.startswith("/"))
    return {path: info for path, info in inner if path.startswith(prefix)}


def read_member(fs: Any, path: str, *span: int) -> bytes:
    """Return a file's bytes, or those from a start to an end.

    Raises:
        ArchiveError: if it lies in an archive, and is damaged or packed in a way that cannot be read.
    """
    if not isinstance(fs, AbstractArchiveFileSystem):
        data: bytes = fs.cat_file(path, *span)
        return data
    # All members of a tar file are read through one handle, whose position another thread would move.
    with _errors_named(), contextlib.nullcontext() if fs.protocol == "zip" else _one_at_a_time:
        data = fs.cat_file(path, *span)
    return data


@contextlib.contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except _DAMAGED as exc:
        raise ArchiveError(f"is damaged: {one_line(exc)}") from exc
    except NotImplementedError as exc:
        raise ArchiveError(f"is packed in a way that is not read: {one_line(exc)}", "unpack it") from exc
    except (OSError, EOFError) as exc:
        if any(words in str(exc) for words in _DAMAGED_WORDS):
            raise ArchiveError(f"is damaged: {one_line(exc)}") from exc
        raise
    except RuntimeError as exc:
        if "password" not in str(exc):
            raise
        raise ArchiveError("is encrypted", "unpack it with its password") from exc
