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
    """The files below the root of a set.

    Args:
        url: of the root.
        infos: what the storage says of each file, by its path; files of the system are left out.
        paths: of `infos`, without what wmdd wrote.
        written: folders that wmdd wrote, each with a slash at its end.
        images: those of `paths` that may be images, without copies and other strays.
        strays: those of `paths` that might be images by their names, and are none of the set.
        notes: lines about the strays.
        is_single: the root is a file.
    """

    url: str
    infos: Mapping[str, Any]
    paths: Collection[str]
    written: Collection[str]
    images: list[str]
    strays: frozenset[str]
    notes: tuple[str, ...]
    is_single: bool

    def signature(self, files: Mapping[str, tuple[str, ...]], extra: Collection[Any] = ()) -> str:
        """Return the hash of the names, sizes and times of files, and of what else decides how they are read."""
        facts = [(path, *version(self.infos[path])) for split in ("train", "val") for path in files[split]]
        return hashlib.blake2b(json.dumps([self.url, [*facts, *extra]]).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Listing:
    """The files of a set, before any is opened.

    Args:
        kind: ``folder``, ``parquet`` or ``builtin``.
        files: for each split, paths relative to the root, sorted.
        signature: changes when a file is added, removed, resized or touched.
        annotated: class names of files that lie in no class folder, by path.
        layout: the split and class of each folder.
        left_out: names of folders among the classes that are no classes.
        notes: lines about what was read in an unusual way, or not read.
        doubt: why the folders may be no classes.
    """

    kind: str
    files: dict[str, tuple[str, ...]]
    signature: str
    annotated: Mapping[str, str] = field(default_factory=dict)
    layout: Layout = field(default_factory=lambda: Layout({}, ""))
    left_out: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    doubt: str = ""

    def class_of(self, path: str) -> str:
        """Return the class name of an image file."""
        return self.annotated.get(path) or self.layout.places[path.rpartition("/")[0]][1]

    def refuse_doubt(self, url: str) -> None:
        """Raise DataError if the folders of the set may be no classes; not called if the user names the classes."""
        if self.doubt:
            raise DataError(f"data.path={url}: {self.doubt}")
