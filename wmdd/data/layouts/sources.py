"""Where real images lie: an image folder, Parquet in the Hugging Face schema, or a set inside a Python package.

`SOURCES` lists what a URL may hold, in the order in which it is tried; a new one is a function there.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import distribution
from typing import Any

import numpy as np

from wmdd.data.decoding.faults import unlisted
from wmdd.data.decoding.pixels import png
from wmdd.data.hf_parquet import is_parquet
from wmdd.data.layouts.annotations import read_annotations
from wmdd.data.layouts.companions import companion_notes
from wmdd.data.layouts.folder_tree import Folders, some
from wmdd.data.layouts.listing import Listing, SetFiles
from wmdd.data.layouts.other_formats import refuse_other_format
from wmdd.data.layouts.parquet_splits import parquet_decides, parquet_splits
from wmdd.data.layouts.recognise import Layout, recognise
from wmdd.data.layouts.set_files import (
    NAMED_IMAGES,
    PACKED,
    find_files,
    has_image_suffix,
    is_data,
    is_junk,
    is_unfinished,
    may_be_image,
    open_file_system,
    suffix,
)
from wmdd.data.layouts.split_names import VAL_NAMES
from wmdd.data.layouts.strays import camera_files, lost_splits, no_images, refuse_broken_links, stray_notes, tool_copies
from wmdd.errors import DataError
from wmdd.storage.marks import own_folders

BUILTIN = "builtin:"


def list_files(url: str) -> Listing:
    """Return the files of a set by split.

    Raises:
        DataError: if the path is missing, or holds no set of a known layout.
    """
    if url.startswith(BUILTIN):
        builtin_images(url)
        return Listing("builtin", {"train": (url,), "val": ()}, hashlib.blake2b(url.encode()).hexdigest()[:32])
    files = _set_files(url)
    listings = (source(files) for source in SOURCES)
    return next(listing for listing in listings if listing is not None)


def _parquet(files: SetFiles) -> Listing | None:
    """List Parquet files whose names say the split; images in folders next to them may decide otherwise."""
    parquet = sorted(filter(is_parquet, files.paths))
    if not parquet:
        return None
    if files.is_single:
        splits: dict[str, tuple[str, ...]] = {"train": tuple(parquet), "val": ()}
        return Listing("parquet", splits, files.signature(splits))
    if not parquet_decides(files.url, parquet, Folders(files.images)):
        return None
    splits, pictures = parquet_splits(parquet, files.url), tuple(filter(has_image_suffix, files.images))
    notes = (f"left out: {some(pictures, 1)} (the set is its Parquet files)",) if pictures else ()
    return Listing("parquet", splits, files.signature(splits), notes=notes)


def _class_folders(files: SetFiles) -> Listing:
    """List images in class folders, or in one folder with a list of their classes."""
    annotated, images = read_annotations(files.url, files.images, files.paths)
    tree = Folders(path for path in images if path not in annotated)
    refuse_other_format(files.url, files.paths, tree)
    layout = recognise(tree, files.url)
    splits: dict[str, list[str]] = {"train": [], "val": sorted(annotated)}
    for path in images:
        split_and_class = layout.places.get(path.rpartition("/")[0])
        if split_and_class and path not in annotated:
            splits[split_and_class[0]].append(path)
    listed = {split: tuple(paths) for split, paths in splits.items()}
    extra: list[Any] = [sorted(annotated.items())] if annotated else []
    odd = {folder: place for folder, place in layout.places.items() if place != _usual(folder)}
    extra += [sorted(odd.items())] if odd else []
    left_out, doubt = _no_classes(files, layout, tree)
    notes = (*layout.notes, *_left_out_notes(files, left_out))
    notes += companion_notes([*listed["train"], *listed["val"]], layout.places)
    base = f"{layout.root}/" if layout.root else ""
    left_out |= {folder[len(base) :].partition("/")[0] for folder in files.written if folder.startswith(base)}
    signature, doubt = files.signature(listed, extra), layout.doubt or doubt
    return Listing("folder", listed, signature, annotated, layout, left_out, notes + files.notes, doubt)


# Tried in this order: each returns None if the files are of another kind; the last names what is wrong with them.
SOURCES: tuple[Callable[[SetFiles], Listing | None], ...] = (_parquet, _class_folders)


def _set_files(url: str) -> SetFiles:
    try:
        fs, root = open_file_system(url)  # once: an archive is read to its end for this
        infos, is_single = find_files(fs, root)
    except FileNotFoundError as exc:
        inside = "::" in url and not url.partition("::")[0].endswith("://")
        whole = f", or {url.partition('://')[0]}://::{url.partition('::')[2]} for all of the archive" if inside else ""
        raise DataError(
            f"data.path={url}: there is no such folder or file; give an image folder or Parquet files{whole}"
        ) from exc
    except (OSError, EOFError) as exc:
        raise DataError(f"data.path={url}: {unlisted(url, exc)}") from exc
    written = tuple(f"{folder}/" for folder in own_folders(infos))  # some are known by a hidden file
    infos = {path: info for path, info in infos.items() if not is_junk(path)}
    paths = [path for path in infos if not path.startswith(written)] if written else list(infos)
    pipes = [path for path in paths if infos[path].get("type") == "other" and not infos[path].get("islink")]
    if pipes:  # to read one waits for whoever writes into it
        raise DataError(f"data.path={url}: {pipes[0]} is no regular file but a pipe, socket or device; remove it")
    if file := next(filter(is_unfinished, sorted(paths)), None):
        raise DataError(f"data.path={url}: {file} is a download that has not finished; finish it, or remove the file")
    images = sorted(filter(may_be_image, paths))
    kept, notes = (images, ()) if is_single else _without_strays(url, fs, root, infos, images)
    return SetFiles(url, infos, paths, written, kept, frozenset(images).difference(kept), notes, is_single)


def _without_strays(
    url: str, fs: Any, root: str, infos: Mapping[str, Any], images: list[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Return the images without copies that tools made and files that are no images, and notes about these."""
    unclear = [path for path in images if suffix(path) not in NAMED_IMAGES]
    refuse_broken_links(url, fs, root, [path for path in unclear if infos[path].get("islink")])
    copies, cameras = tool_copies(images, unclear), camera_files(images)
    known = copies | cameras
    rest = [path for path in unclear if path not in known]
    others = no_images(fs, root, rest, [infos[path].get("size") for path in rest])
    dropped = known.union(*others.values())
    kept = [path for path in images if path not in dropped]
    # If nothing is left, each of these files has to be named with what it is.
    return (kept, stray_notes(copies, cameras, others)) if kept else (images, ())


def _left_out_notes(files: SetFiles, left_out: Collection[str]) -> list[str]:
    notes = []
    written = sorted(folder.rstrip("/") for folder in files.written if any(p.startswith(folder) for p in files.infos))
    if written:
        notes.append(f"left out: {some(written)} (written by wmdd)")
    if left_out:
        notes.append(f"left out: {some(sorted(left_out))} (no images in there)")
    if data := sorted(filter(is_data, files.paths)):
        notes.append(f"left out: {some(data, 1)} (the set is images in class folders)")
    return notes


def _usual(folder: str) -> tuple[str, str]:
    """Return the split and class of a folder by the names that every tool uses."""
    top, _, rest = folder.partition("/")
    if rest and (top == "train" or top in VAL_NAMES):
        return "train" if top == "train" else "val", rest.partition("/")[0]
    return "train", top


def _no_classes(files: SetFiles, layout: Layout, tree: Folders) -> tuple[frozenset[str], str]:
    """Return the folders among the classes that are none, and why: some hold notes alone, and one may hold data."""
    if layout.root is None:
        return frozenset(), ""
    root = f"{layout.root}/" if layout.root else ""
    classes = {name for split, name in layout.places.values() if split == "train"}
    inner = [path for path in files.paths if path.startswith(root) and "/" in path[len(root) :]]
    others = [(name, path) for path in inner if (name := path[len(root) :].partition("/")[0]) not in classes]
    data = [item for item in others if item[1] in files.strays or suffix(item[1]) in PACKED]
    names = frozenset(name for name, _ in others)
    data += lost_splits(files.strays, tree)
    if not data:
        return names, ""
    name, path = min(data)
    return names, (
        f"{name} holds no images, but {path}; write each image as a file, move the folder away, or name the classes in "
        "data.classes"
    )


@functools.lru_cache(maxsize=2)
def builtin_images(url: str) -> tuple[list[bytes], np.ndarray, tuple[str, ...]]:
    """Return PNG bytes, labels and class names of a set that is part of a package.

    Raises:
        DataError: for an unknown name.
    """
    if url != f"{BUILTIN}digits":
        raise DataError(f"data.path={url}: no such built-in set; there is {BUILTIN}digits")
    from PIL import Image

    # The file of sklearn.datasets.load_digits; to import scikit-learn would take every worker two seconds.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",", dtype=np.int64)
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return [png(Image.fromarray(image)) for image in pixels], table[:, -1], tuple("0123456789")
