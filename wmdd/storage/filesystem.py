"""The one place that opens a URL as a file system, reads and writes whole files, and retries transient failures.

Local paths and every fsspec protocol work. Those of `BACKENDS` are classes of this package (fsspec's registry is left
as it is). A new backend is one such class, with a ``root_of``, and a row of the table.

Never call ``fs.exists``, ``isfile``, ``find`` or ``glob``: fsspec's take any failure for an absent file. `kind`,
`entries` and `tree` distinguish the two, and raise OSError for a storage that does not answer.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import posixpath
import re
import uuid
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
import tenacity

from wmdd.errors import ConfigError, WmddError
from wmdd.process.home import expand_home
from wmdd.storage.archives import ArchiveError, members, open_archive, read_member
from wmdd.storage.errors import as_os_error, behind, is_unreached, may_pass, to_install, words
from wmdd.storage.errors import explain as explain
from wmdd.text import one_line

logger = logging.getLogger(__name__)


class Backend(NamedTuple):
    """A file system of this package.

    Args:
        module, name: of its class, which takes the host of a URL; imported when it is first opened.
        host: what the host of a URL names.
        extra: of wmdd, which installs the packages that it needs.
    """

    module: str
    name: str
    host: str
    extra: str = ""


_S3 = Backend("wmdd.storage.object_stores", "S3Files", "bucket")
_GOOGLE = Backend("wmdd.storage.object_stores", "GoogleFiles", "bucket")
_SFTP = Backend("wmdd.storage.sftp", "SFTPFiles", "host", extra="sftp")
BACKENDS = {"s3": _S3, "s3a": _S3, "gs": _GOOGLE, "gcs": _GOOGLE, "sftp": _SFTP, "ssh": _SFTP}
# Object stores show a new object only when it is whole; elsewhere a file is written under another name and renamed.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"})
# A user and a password before the host, or a secret in the query; a port is no password.
_PASSWORD = re.compile(r"://[^/@]*:(?!\d*(/|$))[^@]*@")
_SECRET_QUERY = re.compile(r"(?i)[?&][^=&]*(secret|password|token|signature|credential|access_?key|sig)[^=&]*=")
ATTEMPTS = 10
UNREACHED_S = 30.0  # where each try takes seconds until it fails
SILENT_S = 3.0


def _log(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    is_slow = state.attempt_number > ATTEMPTS // 2 or (state.seconds_since_start or 0.0) > SILENT_S
    level = logging.WARNING if is_slow else logging.INFO
    reason = words(error) if error else ""
    logger.log(level, "the storage failed, and is tried again (%d): %s", state.attempt_number, reason)


def _is_over(state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    is_late = (state.seconds_since_start or 0.0) > UNREACHED_S and is_unreached(error)
    return is_late or state.attempt_number >= ATTEMPTS


# Half a minute at most: after longer outages the executor assigns the task to another worker.
again = tenacity.Retrying(
    stop=_is_over,
    wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
    retry=tenacity.retry_if_exception(may_pass),
    before_sleep=_log,
    reraise=True,
)


def open_fs(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL or path, and the path within it.

    Raises:
        ConfigError: if no file system has this protocol, it cannot be reached, or the URL holds a password.
    """
    refuse_secrets(url)
    url = expand_home(url)
    try:
        if "://" not in url:
            return fsspec.filesystem("file"), os.path.abspath(url)
        return _opened(url)
    except ImportError as exc:
        backend = BACKENDS.get(url.partition("://")[0])
        remedy = f"pip install 'wmdd[{backend.extra}]'" if backend and backend.extra else to_install(exc)
        raise ConfigError(f"{url}: its file system is not installed ({exc}); {remedy}") from exc
    except ValueError as exc:
        raise ConfigError(f"{url}: no such file system ({one_line(exc)}); give a path or URL") from exc
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
    backend = None if "::" in url else BACKENDS.get(parts.scheme)
    if backend is None:
        opened: tuple[Any, str] = again(open_archive if "::" in url else fsspec.core.url_to_fs, url)
        return opened
    if not parts.netloc:
        raise ValueError(f"it names no {backend.host}")
    fs = again(_connected, backend, parts.netloc, os.getpid())
    return fs, fs.root_of(url)


@functools.lru_cache(maxsize=32)
def _connected(backend: Backend, host: str, process: int) -> Any:
    """Open a remote file system once in a process: a forked one must not use its parent's connections."""
    return getattr(import_module(backend.module), backend.name)(host)


def refuse_secrets(url: str) -> None:
    """Raise ConfigError, which does not show it, for a password or a key in a URL."""
    if "://" in url and (_PASSWORD.search(url) or _SECRET_QUERY.search(url)):
        rest = url.rpartition("@")[2].partition("?")[0] if "@" in url else url.partition("://")[2].partition("?")[0]
        shown = f"{url.partition('://')[0]}://...{'@' if '@' in url else ''}{rest}"
        raise ConfigError(f"{shown}: holds a password or key, which the run would write down; use the environment")


def is_local(fs: Any) -> bool:
    """Whether a file system is the one of this machine."""
    return "file" in _protocols(fs)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def kind(fs: Any, path: str) -> str | None:
    """Return ``file``, ``directory`` or another type of what lies at a path; None if nothing does."""
    try:
        return str(again(_info, fs, path)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, EOFError, WmddError):
        raise
    except Exception as exc:  # file systems of other packages raise errors of any type
        raise as_os_error(exc) from exc


def _info(fs: Any, path: str) -> dict[str, Any]:
    try:
        info: dict[str, Any] = fs.info(path)
    except FileNotFoundError as exc:
        if cause := behind(exc):
            raise cause from None
        raise
    return info


def entries(fs: Any, folder: str) -> list[dict[str, Any]]:
    """Return what is in a folder, as fsspec lists it with ``detail``; nothing for an absent folder."""
    fs.invalidate_cache(folder)
    try:
        items: list[dict[str, Any]] = again(fs.ls, folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [item for item in items if item["name"].rstrip("/") != folder.rstrip("/")]


def tree(fs: Any, root: str, skipped: Callable[[str], bool] = lambda name: False) -> dict[str, dict[str, Any]]:
    """Return all files below a folder by their paths, except in folders of `skipped` names; links are not followed."""
    if hasattr(fs, "below"):
        whole: dict[str, dict[str, Any]] = again(fs.below, root)
        return whole
    if (archived := members(fs, root)) is not None:
        return archived
    files, folders = dict[str, dict[str, Any]](), [root]
    while folders:
        for item in entries(fs, folders.pop()):
            if item["type"] != "directory":
                files[item["name"]] = item
            elif not skipped(item["name"].rstrip("/").rpartition("/")[2]):
                folders.append(item["name"])
    return files


def read(fs: Any, path: str) -> bytes:
    """Return a file's content; transient failures are retried."""
    try:
        data: bytes = again(read_member, fs, path)
    except (OSError, EOFError, ValueError, WmddError):
        raise
    except Exception as exc:  # as of web servers
        raise as_os_error(exc) from exc
    return data


def write(fs: Any, path: str, data: bytes) -> None:
    """Write a file in one piece: readers see the old content or the new, never a part."""
    if not OBJECT_STORES.isdisjoint(_protocols(fs)):
        again(fs.pipe_file, path, data)
    elif is_local(fs):
        again(_write_local, path, data)
    else:
        again(_write_remote, fs, path, data)


def remove(fs: Any, path: str) -> None:
    """Remove a file; an absent one is no error."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        again(fs.rm_file, path)


def _write_local(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.{uuid.uuid4().hex[:8]}.part"
    try:
        with open(part, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _write_remote(fs: Any, path: str, data: bytes) -> None:
    part = f"{path}.{uuid.uuid4().hex[:8]}.part"
    try:
        try:
            fs.pipe_file(part, data)
        except FileNotFoundError:  # to ask for the folder first would cost a request for each part of its path
            with contextlib.suppress(FileExistsError):  # another worker made it in between
                fs.makedirs(posixpath.dirname(path), exist_ok=True)
            fs.pipe_file(part, data)
        fs.mv(part, path)
    except Exception:
        with contextlib.suppress(Exception):
            fs.rm_file(part)
        raise
