"""A content-keyed artifact store on any fsspec file system. Found means done.

Layout below the root: ``STAGE/KEY/ATTEMPT/FILE...`` and ``STAGE/KEY/commit.json``, which names the attempt, and the
size and digest of its files. The commit is written last and in one piece, so that a reader sees all or nothing, on
object stores too. Two processes that write the same key each fill their own attempt, and either may win.
"""

from __future__ import annotations

import json
import posixpath
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from wmdd.errors import ArtifactError, ConfigError, StorageError
from wmdd.keys import content_digest
from wmdd.storage.artifact import Artifact
from wmdd.storage.filesystem import explain
from wmdd.storage.folder import Folder
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
        """Return a file's content.

        Raises:
            ArtifactError: if it is not what was committed. The commit is withdrawn, so that the next run computes the
                artifact again.
        """
        expected = self.commit["files"].get(name)
        path = posixpath.join(self.ref.folder, self.commit["attempt"], name)
        for _ in range(2):  # bytes may be lost on their way, too
            data = self.store.folder.read(path)
            if expected and data is not None and described(data) == expected:
                return data
        self.store.withdraw(self.ref)
        full = self.store.folder.path(path)
        raise ArtifactError(f"{full} is damaged; it was withdrawn, and the same command computes it again")


class ArtifactStore:
    """Artifacts in a folder.

    Args:
        url: local path or fsspec URL; created if it does not exist.
        option: that named it, for error messages.
    """

    def __init__(self, url: str, option: str = "--store") -> None:
        self.folder = Folder(url)
        self.url = self.folder.url
        self._option = option
        self._kept: dict[str, tuple[ArtifactRef, Any]] = {}

    def commit_of(self, ref: ArtifactRef) -> dict[str, Any] | None:
        """Return an artifact's commit, or None if it is absent, or its files are not all there in full size."""
        data = self.folder.read(f"{ref.folder}/commit.json")
        if data is None:
            return None
        try:
            commit: dict[str, Any] = json.loads(data)
            listed = self.folder.entries(posixpath.join(ref.folder, commit["attempt"]))
            sizes = {posixpath.basename(item["name"]): item["size"] for item in listed}
            is_whole = all(sizes.get(name) == file["size"] for name, file in commit["files"].items())
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return commit if is_whole else None

    def absent(self, refs: Iterable[ArtifactRef]) -> set[ArtifactRef]:
        """Return the artifacts that are not in the store."""
        return {ref for ref, commit in self.commits(refs).items() if commit is None}

    def commits(self, refs: Iterable[ArtifactRef]) -> dict[ArtifactRef, dict[str, Any] | None]:
        """Return the commits of artifacts as `commit_of` does; remote stores are asked for many at a time."""
        wanted = list(dict.fromkeys(refs))
        if self.folder.is_local:
            return {ref: self.commit_of(ref) for ref in wanted}
        with ThreadPoolExecutor(16) as threads:
            return dict(zip(wanted, threads.map(self.commit_of, wanted), strict=True))

    def __contains__(self, ref: ArtifactRef) -> bool:
        return self.commit_of(ref) is not None

    def save(self, ref: ArtifactRef, value: Artifact, facts: dict[str, Any] | None = None) -> None:
        """Store a value atomically, with JSON-able facts for the commit; an artifact that is there already stays."""
        if ref in self:
            return
        attempt = uuid.uuid4().hex[:12]
        files = {}
        for name, data in value.to_files().items():
            self.folder.write(posixpath.join(ref.folder, attempt, name), data)
            files[name] = described(data)
        commit = {"schema": 1, "stage": ref.stage, "unit": ref.unit, "attempt": attempt, "files": files}
        commit |= {"saved_at": time.time(), **(facts or {})}
        self.folder.write(f"{ref.folder}/commit.json", json.dumps(commit).encode())

    def files(self, ref: ArtifactRef) -> StoredFiles:
        """Open a committed artifact; raise ArtifactError if it is not in the store."""
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
        self.folder.remove(f"{ref.folder}/commit.json")

    def read_note(self, name: str) -> bytes | None:
        """Return a mutable note below ``notes/`` (a resume point, a cached index), or None if it does not exist."""
        return self.folder.read(f"notes/{name}")

    def write_note(self, name: str, data: bytes) -> None:
        """Write a note, in place of one of the same name."""
        self.folder.write(f"notes/{name}", data)

    def drop_note(self, name: str) -> None:
        """Remove a note; an absent one is no error."""
        self.folder.remove(f"notes/{name}")

    def check_writable(self) -> None:
        """Mark the folder as a store, before work whose result could not be kept; raise ConfigError if that fails."""
        try:
            if self.folder.read(STORE_MARK) is None:  # who lists images here leaves them out
                self.folder.write(STORE_MARK, b"")
            self.folder.check_writable("notes")
        except StorageError as exc:
            reason = explain(exc.__cause__ or exc)
            if self._option == "--store":
                raise ConfigError(f"--store {self.url}: cannot be written {reason}") from exc
            raise ConfigError(
                f"{self._option} {self.url} cannot be written {reason}; give another --run, or --store URL"
            ) from exc


def described(data: bytes) -> dict[str, Any]:
    """Return the entry of a file in a commit."""
    return {"size": len(data), "digest": content_digest(data)}
