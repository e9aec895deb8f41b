"""The one place that opens a URL as a file system, reads and writes whole files, and tries again what may pass.

Local paths and every fsspec protocol work. Three are set up here, for wmdd alone (fsspec's own registry stays):

- ``s3://`` is pyarrow's S3 file system. Endpoint, region and credentials come from the environment alone
  (``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, a profile, or the machine's role).
- ``gs://`` is pyarrow's Google file system, with the application default credentials.
- ``sftp://`` needs the extra ``wmdd[sftp]``; see `wmdd.storage.sftp` for keys and known hosts.

Never ask ``fs.exists``, ``isfile``, ``find`` or ``glob``: fsspec's take any failure for an absent file. `kind`,
`entries` and `tree` tell the two apart.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import posixpath
import re
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import fsspec
import tenacity

from wmdd.errors import ConfigError, WmddError
from wmdd.process.home import expand_home
from wmdd.storage.archives import ArchiveError, members, open_archive, read_member
from wmdd.storage.errors import as_os_error, behind, is_unreached, may_pass, to_install, words
from wmdd.storage.errors import explain as explain

logger = logging.getLogger(__name__)

# Object stores show a new object only when it is whole; all others are written beside and renamed.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"})
# A user and a password before the host, or a secret in the query; a port is no password.
_PASSWORD = re.compile(r"://[^/@]*:(?!\d*(/|$))[^@]*@")
_SECRET_QUERY = re.compile(r"(?i)[?&][^=&]*(secret|password|token|signature|credential|access_?key|sig)[^=&]*=")
ATTEMPTS = 10
UNREACHED_S = 30.0  # where each try takes seconds until it fails
SILENT_S = 3.0


def _tell(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    waits = state.attempt_number > ATTEMPTS // 2 or (state.seconds_since_start or 0.0) > SILENT_S
    level = logging.WARNING if waits else logging.INFO
    told = words(error) if error else ""
    logger.log(level, "the storage failed, and is tried again (%d): %s", state.attempt_number, told)


def _is_over(state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    is_late = (state.seconds_since_start or 0.0) > UNREACHED_S and is_unreached(error)
    return is_late or state.attempt_number >= ATTEMPTS


# Half a minute at most: longer outages are the executor's, which gives the task to another worker.
again = tenacity.Retrying(
    stop=_is_over,
    wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
    retry=tenacity.retry_if_exception(may_pass),
    before_sleep=_tell,
    reraise=True,
)


def open_fs(url: str) -> tuple[Any, str]:
    """Give the fsspec file system of a URL or path, and the path within it.

    Raises:
        ConfigError: if there is no such file system, it cannot be reached, or the URL holds a password.
    """
    refuse_secrets(url)
    url = expand_home(url)
    try:
        if "://" not in url:
            return fsspec.filesystem("file"), os.path.abspath(url)
        return _opened(url)
    except ImportError as exc:
        remedy = "pip install 'wmdd[sftp]'" if url.startswith(("sftp:", "ssh:")) else to_install(exc)
        raise ConfigError(f"{url}: its file system is not installed ({exc}); {remedy}") from exc
    except ValueError as exc:
        raise ConfigError(f"{url}: no such file system ({' '.join(str(exc).split())}); give a path or URL") from exc
    except ArchiveError as exc:
        raise ConfigError(f"{url}: {exc}; {exc.remedy}") from exc
    except FileNotFoundError as exc:
        if cause := behind(exc):
            raise ConfigError(f"{url}: no connection {explain(cause)}") from exc
        raise ConfigError(f"{url}: there is no such file; give a path or URL that is there") from exc
    except IsADirectoryError as exc:
        raise ConfigError(f"{url}: is a folder and no archive; give {url.rpartition('::')[2]}") from exc
    except OSError as exc:
        raise ConfigError(f"{url}: no connection {explain(exc)}") from exc


def _opened(url: str) -> tuple[Any, str]:
    parts = urlsplit(url)
    if "::" not in url and parts.scheme in ("zip", "tar"):
        file = url.partition("://")[2]
        raise ConfigError(
            f"{url}: names no archive; give {parts.scheme}://::{file}, or {parts.scheme}://FOLDER::{file}"
        )
    if "::" not in url and parts.scheme in ("s3", "s3a", "gs", "gcs", "sftp", "ssh"):
        if not parts.netloc:
            raise ValueError("it names no host" if parts.scheme in ("sftp", "ssh") else "it names no bucket")
        if parts.scheme in ("sftp", "ssh"):
            return again(_connected, parts.scheme, parts.netloc, os.getpid()), posixpath.normpath(parts.path or "/")
        # A key may hold ? and #, which a URL's path may not.
        root = url.partition("://")[2].rstrip("/")
        return again(_connected, parts.scheme, parts.netloc, os.getpid()), root
    found: tuple[Any, str] = again(open_archive if "::" in url else fsspec.core.url_to_fs, url)
    return found


@functools.lru_cache(maxsize=32)
def _connected(scheme: str, netloc: str, process: int) -> Any:
    """Open a far file system once in a process: a forked one must not talk over its parent's connections."""
    if scheme in ("sftp", "ssh"):
        from wmdd.storage.sftp import SFTPFiles

        return SFTPFiles(netloc)
    from wmdd.storage.object_stores import GoogleFiles, S3Files

    return S3Files(netloc) if scheme.startswith("s3") else GoogleFiles()


def refuse_secrets(url: str) -> None:
    """Refuse a URL that holds a password or a key.

    Raises:
        ConfigError: without showing it.
    """
    if "://" in url and (_PASSWORD.search(url) or _SECRET_QUERY.search(url)):
        rest = url.rpartition("@")[2].partition("?")[0] if "@" in url else url.partition("://")[2].partition("?")[0]
        shown = f"{url.partition('://')[0]}://...{'@' if '@' in url else ''}{rest}"
        raise ConfigError(f"{shown}: holds a password or key, which the run would write down; use the environment")


def is_local(fs: Any) -> bool:
    """Whether a file system is this machine's own."""
    return "file" in _protocols(fs)


def is_object_store(fs: Any) -> bool:
    """Whether a file system has no folders and no renaming."""
    return bool(OBJECT_STORES & set(_protocols(fs)))


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def kind(fs: Any, path: str) -> str | None:
    """Give ``file``, ``directory`` or another kind of what lies at a path; None when nothing does.

    Raises:
        OSError: when that cannot be told.
    """
    try:
        return str(again(_info, fs, path)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, EOFError, WmddError):
        raise
    except Exception as exc:  # file systems of others raise errors of their own
        raise as_os_error(exc) from exc


def _info(fs: Any, path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = fs.info(path)
    except FileNotFoundError as exc:
        if cause := behind(exc):
            raise cause from None
        raise
    return found


def entries(fs: Any, folder: str) -> list[dict[str, Any]]:
    """List a folder as fsspec does with ``detail``; an absent one is empty.

    Raises:
        OSError: when it cannot be listed.
    """
    fs.invalidate_cache(folder)
    try:
        found: list[dict[str, Any]] = again(fs.ls, folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [item for item in found if item["name"].rstrip("/") != folder.rstrip("/")]


def tree(fs: Any, root: str, skipped: Callable[[str], bool] = lambda name: False) -> dict[str, dict[str, Any]]:
    """List all files below a folder by their paths, but for folders of `skipped` names; links are not followed.

    Raises:
        OSError: when any part of it cannot be listed.
    """
    if hasattr(fs, "below"):
        whole: dict[str, dict[str, Any]] = again(fs.below, root)
        return whole
    if (inside := members(fs, root)) is not None:
        return inside
    found, folders = dict[str, dict[str, Any]](), [root]
    while folders:
        for item in entries(fs, folders.pop()):
            if item["type"] != "directory":
                found[item["name"]] = item
            elif not skipped(item["name"].rstrip("/").rpartition("/")[2]):
                folders.append(item["name"])
    return found


def read(fs: Any, path: str) -> bytes:
    """Give a file's content; failures that may pass are tried again."""
    try:
        data: bytes = again(read_member, fs, path)
    except (OSError, EOFError, ValueError, WmddError):
        raise
    except Exception as exc:  # as of web servers
        raise as_os_error(exc) from exc
    return data


def write(fs: Any, path: str, data: bytes) -> None:
    """Write a file in one piece: readers see the old content or the new, never a part."""
    if is_object_store(fs):
        again(fs.pipe_file, path, data)
    elif is_local(fs):
        again(_write_local, path, data)
    else:
        again(_write_beside, fs, path, data)


def remove(fs: Any, path: str) -> None:
    """Remove a file; an absent one is no error."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        again(fs.rm_file, path)


def _write_local(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = f"{path}.{uuid.uuid4().hex[:8]}.part"
    try:
        with open(beside, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _write_beside(fs: Any, path: str, data: bytes) -> None:
    beside = f"{path}.{uuid.uuid4().hex[:8]}.part"
    try:
        try:
            fs.pipe_file(beside, data)
        except FileNotFoundError:  # asking for the folder first would cost far servers a journey for each of its parts
            with contextlib.suppress(FileExistsError):  # another worker made it in between
                fs.makedirs(posixpath.dirname(path), exist_ok=True)
            fs.pipe_file(beside, data)
        fs.mv(beside, path)
    except Exception:
        with contextlib.suppress(Exception):
            fs.rm_file(beside)
        raise


class RangeFile(io.RawIOBase):
    """A file that is read in parts, each of them tried again when it fails; holds no connection."""

    def __init__(self, fs: Any, path: str) -> None:
        super().__init__()
        self._fs, self._path, self._place = fs, path, 0
        self._size = int(again(fs.info, path)["size"])

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Give the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes, fewer at the end only."""
        last = self._size if size is None or size < 0 else min(self._size, self._place + size)
        if last <= self._place:
            return b""
        data: bytes = again(read_member, self._fs, self._path, self._place, last)
        self._place += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
