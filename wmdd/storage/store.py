"""A content-keyed artifact store on any fsspec file system. Found means done.

Layout below the root: ``STAGE/KEY/ATTEMPT/FILE...`` and ``STAGE/KEY/commit.json``, which names the attempt, and the
size and digest of its files. The commit is written last and in one piece, so that a reader sees all or nothing, on
object stores too; two processes that write the same key each fill an attempt of their own, and either may win.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from wmdd.errors import ArtifactError, ConfigError, StorageError
from wmdd.process.home import expand_home
from wmdd.storage.artifact import Artifact
from wmdd.storage.filesystem import entries, explain, is_local, open_fs, read, remove, write
from wmdd.storage.marks import STORE_MARK

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class ArtifactRef:
    """The name of an artifact: its key is a hash of everything that it depends on."""

    stage: str
    unit: str
    key: str

    @property
    def folder(self) -> str:
        """Its folder below the store's root."""
        return f"{self.stage}/{self.key}"


@dataclass(frozen=True)
class StoredFiles:
    """The files of a committed artifact; reading checks sizes and digests."""

    store: ArtifactStore
    ref: ArtifactRef
    commit: dict[str, Any]

    def read(self, name: str) -> bytes:
        """Give a file's content.

        Raises:
            ArtifactError: if it is not what was committed. The commit is withdrawn, so that the next run makes it anew.
        """
        facts = self.commit["files"].get(name)
        path = self.store.path(self.ref.folder, self.commit["attempt"], name)
        for _ in range(2):  # bytes may be lost on their way, too
            data = self.store.get(path)
            if facts and data is not None and len(data) == facts["size"] and _digest(data) == facts["digest"]:
                return data
        self.store.withdraw(self.ref)
        raise ArtifactError(f"{path} is damaged; it was withdrawn, run the same command again to make it anew")


class ArtifactStore:
    """Artifacts below a URL.

    Args:
        url: local path or fsspec URL; made when it does not exist.
    """

    def __init__(self, url: str) -> None:
        self.url = absolute_url(url)
        self.fs, self.root = open_fs(self.url)
        self.option = "--store"  # that named it, for what is refused
        self._kept: dict[str, tuple[ArtifactRef, Any]] = {}

    def __reduce__(self) -> tuple[type[ArtifactStore], tuple[str]]:
        return ArtifactStore, (self.url,)

    def path(self, *parts: str) -> str:
        """Join names below the root."""
        return posixpath.join(self.root, *parts)

    def commit_of(self, ref: ArtifactRef) -> dict[str, Any] | None:
        """Give an artifact's commit, or None when it is absent, or its files are not all there in full size."""
        data = self.get(self.path(ref.folder, "commit.json"))
        if data is None:
            return None
        try:
            commit: dict[str, Any] = json.loads(data)
            folder = self.path(ref.folder, commit["attempt"])
            sizes = {posixpath.basename(item["name"]): item["size"] for item in self.entries(folder)}
            whole = all(sizes.get(name) == facts["size"] for name, facts in commit["files"].items())
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return commit if whole else None

    def entries(self, folder: str) -> list[dict[str, Any]]:
        """List a folder as fsspec does with ``detail``; an absent one is empty.

        Raises:
            StorageError: when it cannot be listed.
        """
        try:
            return entries(self.fs, folder)
        except (OSError, EOFError) as exc:
            raise _storage_error(folder, "read", exc) from exc

    def absent(self, refs: Iterable[ArtifactRef]) -> set[ArtifactRef]:
        """Find the artifacts that are not in the store."""
        return {ref for ref, commit in self.commits(refs).items() if commit is None}

    def commits(self, refs: Iterable[ArtifactRef]) -> dict[ArtifactRef, dict[str, Any] | None]:
        """Give the commits of artifacts as `commit_of` does; far stores are asked for many at a time."""
        wanted = list(dict.fromkeys(refs))
        if is_local(self.fs):
            return {ref: self.commit_of(ref) for ref in wanted}
        with ThreadPoolExecutor(16) as pool:
            return dict(zip(wanted, pool.map(self.commit_of, wanted), strict=True))

    def __contains__(self, ref: ArtifactRef) -> bool:
        return self.commit_of(ref) is not None

    def save(self, ref: ArtifactRef, value: Artifact, facts: dict[str, Any] | None = None) -> None:
        """Store a value atomically; if another process was first, its artifact stays.

        Args:
            facts: JSON-able notes kept in the commit (seconds, versions, hardware).
        """
        if ref in self:
            return
        attempt = uuid.uuid4().hex[:12]
        files = {}
        for name, data in value.to_files().items():
            self.put(self.path(ref.folder, attempt, name), data)
            files[name] = {"size": len(data), "digest": _digest(data)}
        commit = {"schema": 1, "stage": ref.stage, "unit": ref.unit, "attempt": attempt, "files": files}
        commit |= {"saved_at": time.time(), **(facts or {})}
        self.put(self.path(ref.folder, "commit.json"), json.dumps(commit).encode())

    def files(self, ref: ArtifactRef) -> StoredFiles:
        """Open a committed artifact.

        Raises:
            ArtifactError: if it is not in the store.
        """
        commit = self.commit_of(ref)
        if commit is None:
            raise ArtifactError(f"{ref.stage} of {ref.unit} is not in the store {self.url}; run wmdd distill first")
        return StoredFiles(self, ref, commit)

    def load(self, ref: ArtifactRef, kind: type[A], *, keep: bool = False) -> A:
        """Read an artifact; with `keep`, the stage's last one is remembered (an actor keeps its teacher)."""
        if ref.stage in self._kept and self._kept[ref.stage][0] == ref:
            return self._kept[ref.stage][1]  # type: ignore[no-any-return]
        value = kind.from_files(self.files(ref))
        if keep:
            self._kept[ref.stage] = (ref, value)
        return value

    def withdraw(self, ref: ArtifactRef) -> None:
        """Remove an artifact's commit, which makes it absent."""
        if ref.stage in self._kept and self._kept[ref.stage][0] == ref:
            del self._kept[ref.stage]
        self.drop(self.path(ref.folder, "commit.json"))

    def put(self, path: str, data: bytes) -> None:
        """Write a file in one piece: readers see the old content or the new, never a part.

        Raises:
            StorageError: when it cannot be written, also after more tries; names path and reason.
        """
        try:
            write(self.fs, path, data)
        except (OSError, EOFError) as exc:
            raise _storage_error(path, "written", exc) from exc

    def get(self, path: str) -> bytes | None:
        """Read a file, or give None when there is none.

        Raises:
            StorageError: when it cannot be read: a store that fails is not an empty one.
        """
        try:
            return read(self.fs, path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except (OSError, EOFError) as exc:
            raise _storage_error(path, "read", exc) from exc

    def write_note(self, name: str, data: bytes) -> None:
        """Write a mutable note (a resume point, a cached index) below ``notes/``."""
        self.put(self.path("notes", name), data)

    def check_writable(self) -> None:
        """Mark the store as one, write a note and remove it, before work whose result would have no place.

        Raises:
            ConfigError: if nothing can be written here.
        """
        name = f"probe-{uuid.uuid4().hex}"
        try:
            if self.get(self.path(STORE_MARK)) is None:  # who lists images here leaves them out
                self.put(self.path(STORE_MARK), b"")
            self.write_note(name, b"")
            self.drop_note(name)
        except StorageError as exc:
            reason = explain(exc.__cause__ or exc)
            if self.option == "--store":
                raise ConfigError(f"--store {self.url}: cannot be written {reason}") from exc
            raise ConfigError(
                f"{self.option} {self.url} cannot be written {reason}; give another --run, or --store URL"
            ) from exc

    def read_note(self, name: str) -> bytes | None:
        """Read a note, or None when there is none."""
        return self.get(self.path("notes", name))

    def drop_note(self, name: str) -> None:
        """Remove a note that has served its purpose."""
        self.drop(self.path("notes", name))

    def drop(self, path: str) -> None:
        """Remove a file; an absent one is no error.

        Raises:
            StorageError: when it cannot be removed.
        """
        try:
            remove(self.fs, path)
        except (OSError, EOFError) as exc:
            raise _storage_error(path, "removed", exc) from exc


def _storage_error(path: str, verb: str, exc: BaseException) -> StorageError:
    return StorageError(f"{path} cannot be {verb} {explain(exc)}")


def absolute_url(url: str) -> str:
    """Make a local path absolute, so that a worker in another folder means the same place; URLs stay."""
    url = expand_home(url)
    return url if "://" in url or url.startswith("builtin:") else os.path.abspath(url)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
