"""Where real images lie: an image folder, Parquet in the Hugging Face layout, or a set inside a Python package."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import distribution
from typing import Any

import numpy as np

from wmdd.data.decoding.faults import unlisted
from wmdd.data.decoding.pixels import png
from wmdd.data.hf_parquet import is_parquet
from wmdd.data.layouts.annotations import read_annotations
from wmdd.data.layouts.companions import companion_notes
from wmdd.data.layouts.folder_tree import Folders, some
from wmdd.data.layouts.other_formats import refuse_other_format
from wmdd.data.layouts.parquet_splits import parquet_decides, parquet_splits
from wmdd.data.layouts.recognise import Layout, recognise
from wmdd.data.layouts.set_files import (
    find_files,
    has_image_suffix,
    is_data,
    is_junk,
    is_unclear,
    is_unfinished,
    may_be_image,
    open_file_system,
    version,
)
from wmdd.data.layouts.split_names import VAL_NAMES
from wmdd.data.layouts.strays import camera_files, lost_splits, no_images, refuse_broken_links, stray_notes, tool_copies
from wmdd.errors import DataError
from wmdd.storage.marks import own_folders

BUILTIN = "builtin:"
_NO_IMAGES = re.compile(
    r".*\.(npy|npz|mat|tar|zip|gz|tgz|bz2|xz|zst|7z|rar|h5|hdf5|mp4|m4v|avi|mov|mkv|webm|wmv|flv|mpe?g|3gp|pkl|pt)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Listing:
    """The files of a set, before any is opened.

    Args:
        kind: ``folder``, ``parquet`` or ``builtin``.
        files: for each split, paths relative to the root, sorted.
        signature: changes when a file is added, removed, resized or touched.
        annotated: class names of files that lie in no class folder, by path.
        layout: the split and class of each folder.
        left_out: names beside the class folders that are no classes.
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
        """Raise DataError if the folders of the set may be no classes; one who names the classes has none."""
        if self.doubt:
            raise DataError(f"data.path={url}: {self.doubt}")


def list_files(url: str) -> Listing:
    """Find the files of a set.

    Raises:
        DataError: if the path is missing, or holds no set of a known layout.
    """
    if url.startswith(BUILTIN):
        builtin_images(url)
        return Listing("builtin", {"train": (url,), "val": ()}, hashlib.blake2b(url.encode()).hexdigest()[:32])
    try:
        place = open_file_system(url)  # once: an archive is read to its end for this
        found, single = find_files(*place)
    except FileNotFoundError as exc:
        inside = "::" in url and not url.partition("::")[0].endswith("://")
        whole = f", or {url.partition('://')[0]}://::{url.partition('::')[2]} for all of the archive" if inside else ""
        raise DataError(
            f"data.path={url}: there is no such folder or file; give an image folder or Parquet files{whole}"
        ) from exc
    except (OSError, EOFError) as exc:
        raise DataError(f"data.path={url}: {unlisted(url, exc)}") from exc
    own = tuple(f"{folder}/" for folder in own_folders(found))  # some are known by a hidden file
    found = {path: info for path, info in found.items() if not is_junk(path)}
    rest = [path for path in found if not path.startswith(own)] if own else list(found)
    pipes = [path for path in rest if found[path].get("type") == "other" and not found[path].get("islink")]
    if pipes:  # to read one waits for whoever writes into it
        raise DataError(f"data.path={url}: {pipes[0]} is no regular file but a pipe, socket or device; remove it")
    if unfinished := next(filter(is_unfinished, sorted(rest)), None):
        raise DataError(
            f"data.path={url}: {unfinished} is a download that has not finished; finish it, or remove the file"
        )
    parquet = sorted(path for path in rest if is_parquet(path))
    images = sorted(path for path in rest if may_be_image(path))
    if single and parquet:
        return _of_parquet(url, found, {"train": tuple(parquet), "val": ()})
    kept, notes = (images, ()) if single else _without_strays(url, place, found, images)
    if parquet and parquet_decides(url, parquet, Folders(kept)):
        return _of_parquet(url, found, parquet_splits(parquet, url), tuple(filter(has_image_suffix, kept)))
    listing = _of_folder(url, found, kept, rest, own, frozenset(images).difference(kept))
    return replace(listing, notes=listing.notes + notes)


def _without_strays(
    url: str, place: tuple[Any, str], found: Mapping[str, Any], images: list[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Return the images without copies that tools made and files that are none, and notes about these."""
    fs, root = place
    unclear = list(filter(is_unclear, images))
    refuse_broken_links(url, fs, root, [path for path in unclear if found[path].get("islink")])
    copies, cameras = tool_copies(images, unclear), camera_files(images)
    known = copies | cameras
    rest = [path for path in unclear if path not in known]
    others = no_images(fs, root, rest, [found[path].get("size") for path in rest])
    dropped = known.union(*others.values())
    kept = [path for path in images if path not in dropped]
    # If nothing is left, each of these files has to be named with what it is.
    return (kept, stray_notes(copies, cameras, others)) if kept else (images, ())


def _of_parquet(
    url: str, found: Mapping[str, Any], files: dict[str, tuple[str, ...]], images: tuple[str, ...] = ()
) -> Listing:
    notes = (f"left out: {some(images, 1)} (the set is its Parquet files)",) if images else ()
    return Listing("parquet", files, _signature(url, found, files), notes=notes)


def _of_folder(
    url: str,
    found: Mapping[str, Any],
    images: list[str],
    rest: Collection[str],
    own: Collection[str],
    strays: Collection[str],
) -> Listing:
    annotated, images = read_annotations(url, images, rest)
    tree = Folders(path for path in images if path not in annotated)
    refuse_other_format(url, rest, tree)
    layout = recognise(tree, url)
    files: dict[str, list[str]] = {"train": [], "val": sorted(annotated)}
    for path in images:
        place = layout.places.get(path.rpartition("/")[0])
        if place and path not in annotated:
            files[place[0]].append(path)
    listed = {split: tuple(paths) for split, paths in files.items()}
    extra: list[Any] = [sorted(annotated.items())] if annotated else []
    odd = {folder: place for folder, place in layout.places.items() if place != _usual(folder)}
    extra += [sorted(odd.items())] if odd else []
    left_out, doubt = _beside(rest, layout, strays, tree)
    data = [path for path in sorted(rest) if is_data(path)]
    notes = layout.notes
    written = sorted(folder.rstrip("/") for folder in own if any(path.startswith(folder) for path in found))
    if written:
        notes += (f"left out: {some(written)} (written by wmdd)",)
    if left_out:
        notes += (f"left out: {some(sorted(left_out))} (no images in there)",)
    if data:
        notes += (f"left out: {some(data, 1)} (the set is images in class folders)",)
    notes += companion_notes([*listed["train"], *listed["val"]], layout.places)
    signature = _signature(url, found, listed, extra)
    base = f"{layout.root}/" if layout.root else ""
    left_out |= {folder[len(base) :].partition("/")[0] for folder in own if folder.startswith(base)}
    return Listing("folder", listed, signature, annotated, layout, left_out, notes, layout.doubt or doubt)


def _signature(
    url: str, found: Mapping[str, Any], files: Mapping[str, tuple[str, ...]], extra: Collection[Any] = ()
) -> str:
    facts: list[Any] = [(path, *version(found[path])) for split in ("train", "val") for path in files[split]]
    facts += extra
    return hashlib.blake2b(json.dumps([url, facts]).encode(), digest_size=16).hexdigest()


def _usual(folder: str) -> tuple[str, str]:
    """Return the split and class of a folder by the names that every tool uses."""
    top, _, rest = folder.partition("/")
    if rest and (top == "train" or top in VAL_NAMES):
        return "train" if top == "train" else "val", rest.partition("/")[0]
    return "train", top


def _beside(
    found: Collection[str], layout: Layout, strays: Collection[str], tree: Folders
) -> tuple[frozenset[str], str]:
    """Return the folders beside the classes that are none, because they hold notes alone, and which hold other data."""
    if layout.root is None:
        return frozenset(), ""
    root = f"{layout.root}/" if layout.root else ""
    classes = {name for split, name in layout.places.values() if split == "train"}
    inner = [path for path in found if path.startswith(root) and "/" in path[len(root) :]]
    others = [(name, path) for path in inner if (name := path[len(root) :].partition("/")[0]) not in classes]
    data = [item for item in others if item[1] in strays or (is_data(item[1]) and _NO_IMAGES.fullmatch(item[1]))]
    names = frozenset(name for name, _ in others)
    data += lost_splits(strays, tree)
    if not data:
        return names, ""
    name, path = min(data)
    return names, (
        f"{name} holds no images, but {path}; write each image as a file, move the folder away, or name the classes in "
        "data.classes"
    )


@functools.lru_cache(maxsize=2)
def builtin_images(url: str) -> tuple[list[bytes], np.ndarray, tuple[str, ...]]:
    """Give PNG bytes, labels and class names of a set that ships inside a package.

    Raises:
        DataError: for an unknown name.
    """
    if url != f"{BUILTIN}digits":
        raise DataError(f"data.path={url}: no such built-in set; there is {BUILTIN}digits")
    from PIL import Image

    # What sklearn.datasets.load_digits reads; to import scikit-learn would take every worker two seconds.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",", dtype=np.int64)
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return [png(Image.fromarray(image)) for image in pixels], table[:, -1], tuple("0123456789")
