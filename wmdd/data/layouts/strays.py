"""Files among the images of a set that are no images of it: copies that tools made, and files of other kinds."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from posixpath import join, splitext
from typing import Any

from wmdd.data.decoding.faults import begins_as_image, unread
from wmdd.data.layouts.folder_tree import Folders, some, steps
from wmdd.data.layouts.set_files import CAMERAS, has_image_suffix, suffix
from wmdd.data.layouts.split_names import is_generic, split_role
from wmdd.errors import DataError
from wmdd.storage.archives import read_member
from wmdd.text import counted

# Without an ending, files of these names are notes, unless they are images by their first bytes.
_NOTES = frozenset({"label", "labels", "index", "metadata", "dataset-metadata", "annotations"})
# Copies that tools keep: 0.jpg_original (exiftool), 0.jpg~ and #0.jpg# (editors), 0.THM (cameras).
_TOOL_COPY = re.compile(
    r".*~|#.*#|.+\.(?:bak\d*|bck|bkp|backup|orig|rej|tmp|swp|swo|thm)"
    r"|.+\.(?:jpe?g|png|tiff?|webp|gif|bmp|heic|dng|cr2|nef|arw)"
    r"(?:[._](?:original|orig|old|save|sav|temp|backup|bak|exiftool_tmp))"
)
_THUMBNAILS = re.compile(r"_?(?:thumb|thumbnail)s?_?", re.IGNORECASE)
# These words have other meanings too: each image in such a folder must have the name of one above it.
_COPIES = re.compile(r"_?(?:preview|backup|bak|original|resized|trash|cache|temp|tmp)s?_?", re.IGNORECASE)
_WORDS = ("thumb", "preview", "backup", "bak", "original", "resized", "trash", "cache", "temp", "tmp")
_ORIGINALS = frozenset({"full", "large", "original", "originals"})
# Dropbox and Nextcloud; Syncthing; ownCloud.
_CONFLICT = re.compile(
    r"(?P<stem>.+?)(?: \([^()]*conflicted copy[^()]*\)|\.sync-conflict-\d{8}-\d{6}-\w+|_conflict-\d{8}-\d{6})"
    r"(?P<suffix>\.\w+)",
    re.IGNORECASE,
)
_TAIL = re.compile(r"(?:\.~\d+)?~$|[._][^._]*(?:_tmp)?$")  # of a copy's name
_ALL, _SAMPLE, _AT_ONCE, _ENDINGS, _HEAD = 64, 32, 8, 32, 2**16


def tool_copies(images: Sequence[str], unclear: Sequence[str]) -> set[str]:
    """Return the files that tools made of others, by their names; `unclear` are those not named as images."""
    text = "/".join(["", *images]).lower()  # to search one text is many times faster than to test each name
    backups = {path for path in unclear if _TOOL_COPY.fullmatch(path.rpartition("/")[2].lower())}
    copies = backups and _with_originals(backups, images)
    if "conflict" in text:
        known = set(images)
        matches = ((path, _CONFLICT.fullmatch(path)) for path in images)
        copies |= {path for path, match in matches if match and match["stem"] + match["suffix"] in known}
    may_be = any(f"/{word}" in text or f"/_{word}" in text for word in _WORDS)
    return copies | (_in_copied_folders(images) if may_be else set())


def _with_originals(backups: Collection[str], images: Iterable[str]) -> set[str]:
    """Return the files whose original is there: `0.png` of `0.png~` and `#0.png#`, or `0.jpg` of `0.thm`."""
    named = [path.lower() for path in images if has_image_suffix(path)]
    known = {*named, *map(_stem, named)}

    def has_original(path: str) -> bool:
        folder, _, name = path.lower().rpartition("/")
        without = _TAIL.sub("", name.strip("#"))
        return not known.isdisjoint(join(folder, part) for part in (name.strip("#"), without, _stem(without)))

    return set(filter(has_original, backups))


def camera_files(images: Sequence[str]) -> set[str]:
    """Return the files in a format of cameras that is not read whose image is there in another one: 0.CR2 of 0.jpg."""
    raw = {path for path in images if suffix(path) in CAMERAS}
    known = {_stem(path) for path in images if path not in raw and has_image_suffix(path)} if raw else set()
    return {path for path in raw if _stem(path) in known}


def _stem(path: str) -> str:
    return splitext(path.lower())[0]


def _in_copied_folders(images: Sequence[str]) -> set[str]:
    """Return the images in a folder of thumbnails or copies next to their originals; elsewhere it may be a class."""
    folders: dict[str, list[str]] = {}
    for path in images:
        folders.setdefault(path.rpartition("/")[0], []).append(path)
    tree = Folders(images)

    @functools.cache
    def stems(folder: str) -> set[str]:
        return {_stem(path).rpartition("/")[2] for path in folders[folder]}

    @functools.cache
    def names_below(root: str) -> set[str]:
        inside = (path for folder in folders if f"{folder}/".startswith(f"{root}/") for path in folders[folder])
        return {_stem(path)[len(root) :] for path in inside}

    @functools.cache
    def has_originals(above: str, name: str) -> bool:
        """Whether another folder holds an image of each name that is below this one, and the two are no classes."""
        folder = join(above, name)
        if folder in folders and (not above or split_role(above.rpartition("/")[2])):
            return False
        originals = (other for other in tree.below(above) if is_generic(other) or other.lower() in _ORIGINALS)
        return any(names_below(folder) <= names_below(join(above, other)) for other in originals if other != name)

    def is_copied(folder: str, above: str, name: str) -> bool:
        if _THUMBNAILS.fullmatch(name):
            return above in folders or has_originals(above, name)
        return bool(_COPIES.fullmatch(name)) and above in folders and stems(folder) <= stems(above)

    copied = [folder for folder in folders if any(is_copied(folder, *step) for step in steps(folder))]
    return {path for folder in copied for path in folders[folder]}


def no_images(fs: Any, root: str, files: Sequence[str], sizes: Sequence[int | None]) -> dict[str, list[str]]:
    """Return, by ending, files of which none begins as an image does; their names do not show it.

    An ending with an image among its files is one of images: another file with it may be a damaged one. Files without
    an ending are judged folder by folder, and those that are named as notes one by one.
    """
    counts = Counter(map(_ending, files))
    frequent = {ending for ending, _ in counts.most_common(_ENDINGS)}  # others may be hashes
    groups: dict[tuple[str, str], list[tuple[str, int | None]]] = {}
    for path, size in zip(files, sizes, strict=True):
        ending = _ending(path)
        ending = ending if ending in frequent else ""
        judged_with = path if _is_note(path) else path.rpartition("/")[0]
        groups.setdefault((ending, "" if ending else judged_with), []).append((path, size))
    with warnings.catch_warnings(), ThreadPoolExecutor(_AT_ONCE) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # such as one about a large image

        def holds_images(group: list[tuple[str, int | None]]) -> bool:
            sample = group[:: 1 if len(group) <= _ALL else len(group) // _SAMPLE]
            parts = (sample[:1], *(sample[start : start + _AT_ONCE] for start in range(1, len(sample), _AT_ONCE)))
            return any(any(pool.map(lambda item: _may_be_image(fs, root, *item), part)) for part in parts)

        others: dict[str, list[str]] = {}
        for (ending, _), group in groups.items():
            if not holds_images(group):
                others.setdefault(ending, []).extend(path for path, _ in group)
        return others


def _is_note(path: str) -> bool:
    return path.rpartition("/")[2].lower() in _NOTES


def _ending(path: str) -> str:
    ending = suffix(path)  # a number, or a sentence with a point in it, is no ending
    return ending if ending[:1].isalpha() and ending.isascii() and ending.isalnum() and len(ending) <= 12 else ""


def _may_be_image(fs: Any, root: str, path: str, size: int | None) -> bool:
    if size == 0:
        return False
    try:
        return begins_as_image(read_member(fs, f"{root}/{path}", 0, min(size or _HEAD, _HEAD)))
    except (OSError, EOFError):  # the index names it, and says why
        return True


def lost_splits(strays: Collection[str], tree: Folders) -> list[tuple[str, str]]:
    """Return the folders that are named for a split, next to another one, and hold only strays, each with a stray."""
    first_stray = {path.rpartition("/")[0]: path for path in sorted(strays, reverse=True)}
    splits: dict[str, str] = {}
    for folder, path in first_stray.items():
        for above, name in steps(folder):
            role = split_role(name)
            if role and role.rank < 2 and tree.below(above) and name not in tree.below(above):
                splits[join(above, name)] = min(path, splits.get(join(above, name), path))
    return list(splits.items())


def refuse_broken_links(url: str, fs: Any, root: str, links: Sequence[str]) -> None:
    """Raise DataError for a link that leads to nothing, or in a circle, and may be one to a folder."""
    for name in links:
        try:
            os.stat(f"{root}/{name}")
        except OSError as exc:
            raise DataError(f"data.path={url}: {unread(fs, f'{root}/{name}', name, exc)}") from exc


def stray_notes(copies: Iterable[str], cameras: Iterable[str], others: dict[str, list[str]]) -> tuple[str, ...]:
    """Return a line about each kind of files that are left out."""
    notes, copied, raw = [], sorted(copies), sorted(cameras)
    if copied:
        what = counted(len(copied), "copy or thumbnail", "copies and thumbnails")
        notes.append(f"left out: {what} that a tool made ({some(copied, 2)})")
    if raw:
        what = counted(len(raw), "raw or HEIC file of an image that is", "raw or HEIC files of images that are")
        notes.append(f"left out: {what} there in another format too ({some(raw, 2)})")
    unnamed = ((ending, [path for path in group if not _is_note(path)]) for ending, group in others.items())
    others = {ending: group for ending, group in unnamed if group}
    if paths := sorted(path for group in others.values() for path in group):
        endings = [f"{len(others[ending])} {f'.{ending}' if ending else 'without one'}" for ending in sorted(others)]
        kinds = f"by ending: {some(endings)}; " if len(endings) > 1 else ""
        what = counted(
            len(paths), "file that is no image by its first bytes", "files that are no images by their first bytes"
        )
        notes.append(f"left out: {what} ({kinds}{some(paths, 1)})")
    return tuple(notes)
