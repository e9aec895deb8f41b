"""A content-keyed artifact store on any fsspec file system. Found means done.

Layout below the root: ``STAGE/KEY/ATTEMPT/FILE...`` and ``STAGE/KEY/commit.json``, which names the attempt, and the
size and digest of its files. The commit is written last and in one piece, so that a reader sees all or nothing, on
object stores too; two processes that write the same key each fill an attempt of their own, and either may win.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import time
import uuid
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec

from wmdd.errors import ArtifactError
from wmdd.types import Artifact

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


def content_key(parts: dict[str, Any]) -> str:
    """Hash JSON-able parts into 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
        data = b""
        with contextlib.suppress(OSError):
            data = self.store.fs.cat_file(path)
        if facts is None or len(data) != facts["size"] or _digest(data) != facts["digest"]:
            self.store.withdraw(self.ref)
            raise ArtifactError(f"{path} is damaged; it was withdrawn, run the same command again to make it anew")
        return data


class ArtifactStore:
    """Artifacts below a URL.

    Args:
        url: local path or fsspec URL; made when it does not exist.
    """

    def __init__(self, url: str) -> None:
        self.url = absolute_url(url)
        self.fs, self.root = fsspec.core.url_to_fs(self.url)
        self._kept: dict[str, tuple[ArtifactRef, Any]] = {}

    def __reduce__(self) -> tuple[type[ArtifactStore], tuple[str]]:
        return ArtifactStore, (self.url,)

    def path(self, *parts: str) -> str:
        """Join names below the root."""
        return posixpath.join(self.root, *parts)

    def commit_of(self, ref: ArtifactRef) -> dict[str, Any] | None:
        """Give an artifact's commit, or None when it is absent, or its files are not all there in full size."""
        try:
            commit: dict[str, Any] = json.loads(self.fs.cat_file(self.path(ref.folder, "commit.json")))
            folder = self.path(ref.folder, commit["attempt"])
            sizes = {posixpath.basename(item["name"]): item["size"] for item in self.fs.ls(folder, detail=True)}
            whole = all(sizes.get(name) == facts["size"] for name, facts in commit["files"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return commit if whole else None

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
        with contextlib.suppress(OSError):
            self.fs.rm_file(self.path(ref.folder, "commit.json"))

    def put(self, path: str, data: bytes) -> None:
        """Write a file in one piece: readers see the old content or the new, never a part."""
        self.fs.makedirs(posixpath.dirname(path), exist_ok=True)
        if "file" not in self.fs.protocol:
            self.fs.pipe_file(path, data)  # object stores show a new object only when it is whole
            return
        beside = f"{path}.{uuid.uuid4().hex[:8]}.part"
        with open(beside, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)

    def write_note(self, name: str, data: bytes) -> None:
        """Write a mutable note (a resume point, a cached index) below ``notes/``."""
        self.put(self.path("notes", name), data)

    def read_note(self, name: str) -> bytes | None:
        """Read a note, or None when there is none."""
        try:
            data: bytes = self.fs.cat_file(self.path("notes", name))
        except OSError:
            return None
        return data

    def drop_note(self, name: str) -> None:
        """Remove a note that has served its purpose."""
        with contextlib.suppress(OSError):
            self.fs.rm_file(self.path("notes", name))


def absolute_url(url: str) -> str:
    """Make a local path absolute, so that a worker in another folder means the same place; URLs stay."""
    return url if "://" in url or url.startswith("builtin:") else os.path.abspath(url)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
