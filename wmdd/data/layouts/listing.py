"""What is known of a set before any of its files is opened: the files below its root, and which are in which split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from wmdd.data.layouts.recognise import Layout
from wmdd.data.layouts.set_files import version
from wmdd.errors import DataError


@dataclass(frozen=True)
class SetFiles:
    """The files below the root of a set."""

    url: str  # of the root
    infos: Mapping[str, Any]  # what the storage lists for each file, by its path; files of the system are left out
    paths: Collection[str]  # of `infos`, without what wmdd wrote
    written: Collection[str]  # folders that wmdd wrote, each with a slash at its end
    images: list[str]  # those of `paths` that may be images, without copies and other strays
    strays: frozenset[str]  # those of `paths` that might be images by their names, and are none of the set
    notes: tuple[str, ...]  # about the strays
    is_single: bool  # the root is a file

    def signature(self, files: Mapping[str, tuple[str, ...]], extra: Collection[Any] = ()) -> str:
        """Return the hash of the names, sizes and times of files, and of what else decides how they are read."""
        facts = [(path, *version(self.infos[path])) for split in ("train", "val") for path in files[split]]
        return hashlib.blake2b(json.dumps([self.url, [*facts, *extra]]).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Listing:
    """The files of a set, before any is opened."""

    kind: str  # folder, parquet or builtin
    files: dict[str, tuple[str, ...]]  # for each split, paths relative to the root, sorted
    signature: str  # changes when a file is added, removed, resized or touched
    annotated: Mapping[str, str] = field(default_factory=dict)  # classes of files that lie in no class folder, by path
    layout: Layout = field(default_factory=lambda: Layout({}, ""))
    left_out: frozenset[str] = frozenset()  # names of folders among the classes that are no classes
    notes: tuple[str, ...] = ()  # about what was read in an unusual way, or not read
    doubt: str = ""  # why the folders may be no classes

    def class_of(self, path: str) -> str:
        """Return the class name of an image file."""
        return self.annotated.get(path) or self.layout.places[path.rpartition("/")[0]][1]

    def refuse_doubt(self, url: str) -> None:
        """Raise DataError if the folders of the set may be no classes; not called if the user names the classes."""
        if self.doubt:
            raise DataError(f"data.path={url}: {self.doubt}")
