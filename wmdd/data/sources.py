"""Where real images lie: an image folder, Parquet in the Hugging Face layout, or a set inside a Python package."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import distribution
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wmdd.data.own_folders import own_folders, without_own
from wmdd.data.pixels import png
from wmdd.errors import ConfigError, DataError
from wmdd.files import RangeFile, entries, explain, is_local, kind, open_fs, read, tree
from wmdd.tables import open_table, read_rows

BUILTIN = "builtin:"
TINY_LIST = "val/val_annotations.txt"
VAL_NAMES = ("val", "validation", "valid", "test")
SPLIT_NAMES = ("train", *VAL_NAMES)
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")
_JUNK = ("thumbs.db", "desktop.ini")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_NOTES = (".txt", ".csv", ".json", ".md", ".xml")
_STAMPS = ("mtime", "ETag", "etag", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class Listing:
    """The files of a set, before any is opened.

    Args:
        kind: ``folder``, ``parquet`` or ``builtin``.
        files: for each split, paths relative to the root, sorted.
        signature: changes when a file is added, removed, resized or touched.
        annotated: class names of files that lie in no class folder, by path.
    """

    kind: str
    files: dict[str, tuple[str, ...]]
    signature: str
    annotated: Mapping[str, str] = field(default_factory=dict)

    def class_of(self, path: str) -> str:
        """Give the class name of an image file."""
        return self.annotated.get(path) or class_of(path)


def open_file_system(url: str) -> tuple[Any, str]:
    """Give the file system and root path of a URL."""
    try:
        return open_fs(url)
    except ConfigError as exc:
        raise DataError(f"data.path={exc}") from exc


def list_files(url: str) -> Listing:
    """Find the files of a set.

    Raises:
        DataError: if the path is missing, or holds no set of a known layout.
    """
    if url.startswith(BUILTIN):
        builtin_images(url)
        return Listing("builtin", {"train": (url,), "val": ()}, hashlib.blake2b(url.encode()).hexdigest()[:32])
    try:
        found, single = _found(*open_file_system(url))
    except FileNotFoundError as exc:
        raise DataError(
            f"data.path={url}: there is no such folder or file; give an image folder or Parquet files"
        ) from exc
    except (OSError, EOFError) as exc:
        raise DataError(f"data.path={url}: cannot be listed {explain(exc)}") from exc
    found = {path: info for path, info in without_own(found).items() if not _hidden(path)}
    annotated = _annotations(url, found)
    if annotated:
        found = {path: info for path, info in found.items() if _of_tiny_imagenet(path, annotated)}
    parquet = sorted(path for path in found if path.endswith(".parquet"))
    if single and parquet:
        files: dict[str, tuple[str, ...]] = {"train": tuple(parquet), "val": ()}
    else:
        files = _parquet_splits(parquet, url) if parquet else _folder_splits(sorted(found), url)
    facts: list[Any] = [(path, *_version(found[path])) for split in ("train", "val") for path in files[split]]
    facts += [sorted(annotated.items())] if annotated else []
    signature = hashlib.blake2b(json.dumps([url, facts]).encode(), digest_size=16).hexdigest()
    return Listing("parquet" if parquet else "folder", files, signature, annotated)


def _annotations(url: str, found: Mapping[str, Any]) -> dict[str, str]:
    """Read the classes of the validation images of Tiny-ImageNet as it is published: one folder and a list."""
    if TINY_LIST not in found:
        return {}
    fs, root = open_file_system(url)
    try:
        lines = read(fs, f"{root}/{TINY_LIST}").decode().splitlines()
        pairs = [line.split("\t")[:2] for line in lines if line.strip()]
        return {f"val/images/{file}": name for file, name in pairs if f"val/images/{file}" in found}
    except (OSError, EOFError, ValueError) as exc:
        raise DataError(f"data.path={url}: {TINY_LIST} cannot be read as file and class; restore it") from exc


def _of_tiny_imagenet(path: str, annotated: Mapping[str, str]) -> bool:
    return path in annotated or (path.startswith("train/") and not path.endswith(_NOTES))


def _found(fs: Any, root: str) -> tuple[dict[str, Any], bool]:
    """List files by their path below the root, and say whether the root itself is the only one."""
    what = kind(fs, root)
    if what is None:
        raise FileNotFoundError(root)
    if what != "directory" and (what == "file" or fs.isfile(root)):  # a linked folder is of a third kind
        return {posixpath.basename(root): fs.info(root)}, True
    return _find(fs, root), False


def _find(fs: Any, root: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {}
    base = root.rstrip("/") + "/"
    for path, info in tree(fs, root).items():
        inner = path.removeprefix(base)
        if not info.get("islink"):
            found[inner] = info
            continue
        # A local listing gives a linked folder as one odd file, and a linked file with the time of the link.
        target = os.path.realpath(path)
        if not fs.isdir(target):
            found[inner] = fs.info(target) if fs.exists(target) else info
        elif target not in above:
            found |= {f"{inner}/{name}": item for name, item in _find(fs, target, (*above, target)).items()}
    return found


def _version(info: dict[str, Any]) -> tuple[Any, str]:
    return info.get("size"), str(next((info[key] for key in _STAMPS if info.get(key)), None))


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/")) or posixpath.basename(path).lower() in _JUNK


def _parquet_splits(paths: list[str], url: str) -> dict[str, tuple[str, ...]]:
    below = {name: tuple(path for path in paths if _of_split(path, name)) for name in SPLIT_NAMES}
    named = [name for name in VAL_NAMES if below[name]]
    train = below["train"] or (tuple(paths) if len(paths) == 1 and not named else ())
    if not train:
        raise DataError(
            f"data.path={url}: none of {len(paths)} Parquet files is named train-*, the first is {paths[0]}; "
            "rename them, or give one file"
        )
    folders = sorted(set(map(_home, train)))
    if len(folders) > 1:
        raise DataError(
            f"data.path={url}: training files lie in {len(folders)} folders, as of several sets ({folders[0] or '.'}, "
            f"{folders[1]}); give one of them"
        )
    return {"train": train, "val": tuple(path for path in below[named[0]] if path not in train) if named else ()}


def _home(path: str) -> str:
    """Name the folder of the set that a training file is of; below its train there may be folders of parts."""
    folders = path.split("/")[:-1]
    return "/".join(folders[: folders.index("train")] if "train" in folders else folders)


def _of_split(path: str, name: str) -> bool:
    *folders, file = path.split("/")
    return name in folders or file.startswith((f"{name}-", f"{name}.", f"{name}_"))


def _folder_splits(paths: list[str], url: str) -> dict[str, tuple[str, ...]]:
    below: dict[str, list[str]] = {name: [] for name in SPLIT_NAMES}
    loose: dict[str, list[str]] = {name: [] for name in ("", *SPLIT_NAMES)}
    for path in paths:
        top, _, rest = path.partition("/")
        if top in below and "/" in rest:
            below[top].append(path)
        elif not path.lower().endswith(_NOTES) and (top in below or not rest):
            loose[top if rest else ""].append(path)
    if below["train"]:
        # A test folder without classes is the usual unlabelled one; a val folder without classes is a mistake.
        val = next((name for name in VAL_NAMES if below[name] or (loose[name] and name != "test")), None)
        _refuse_loose(url, loose["train"] + (loose[val] if val else []))
        return {"train": tuple(below["train"]), "val": tuple(below[val]) if val else ()}
    classes = tuple(path for path in paths if "/" in path)
    if not classes and url.endswith(_ARCHIVES):
        how = f"; unpack it, or give zip://FOLDER::{url}" if url.endswith(".zip") else "; unpack it"
        raise DataError(f"data.path={url}: is an archive{how}")
    if not classes:
        raise DataError(f"data.path={url}: holds no images; expected train/CLASS/*.jpg, CLASS/*.jpg or train-*.parquet")
    stray = next((name for name in VAL_NAMES if below[name]), None)
    if stray:
        raise DataError(
            f"data.path={url}: has {stray}/CLASS folders but no images in train/CLASS; add the train folder"
        )
    _refuse_loose(url, loose[""])
    for path in classes:
        names = path.split("/")
        if len(names) > 3 and names[1] in SPLIT_NAMES:
            place = f"{url.rstrip('/')}/{names[0]}"
            raise DataError(f"data.path={url}: {names[0]} holds a set of its own, and no class; give {place}")
    return {"train": classes, "val": ()}


def _refuse_loose(url: str, paths: list[str]) -> None:
    if paths:
        more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
        raise DataError(f"data.path={url}: {paths[0]}{more} lies in no class folder; move it into one, or away")


def class_of(path: str) -> str:
    """Give the class folder of an image file's relative path."""
    parts = path.split("/")
    return parts[1] if parts[0] in SPLIT_NAMES and len(parts) > 2 else parts[0]


def class_folders(url: str, listing: Listing) -> set[str]:
    """Name the training classes of an image folder, those without images too."""
    fs, root = open_file_system(url)
    base = posixpath.join(root, "train") if listing.files["train"][0].startswith("train/") else root
    try:
        items = entries(fs, base)
    except (OSError, EOFError) as exc:
        raise DataError(f"data.path={url}: cannot be listed {explain(exc)}") from exc
    folders = [x["name"] for x in items if x["type"] == "directory" or (x.get("islink") and fs.isdir(x["name"]))]
    names = {folder.rstrip("/").rpartition("/")[2] for folder in folders}
    full = {class_of(path) for path in listing.files["train"]}
    return {name for name in names - full if not name.startswith(".") and not _is_own(fs, base, name)} | full


def _is_own(fs: Any, base: str, name: str) -> bool:
    """Whether a folder without images is, or holds, a store or run folder: it is no class that lost its images."""
    try:
        files = tree(fs, posixpath.join(base, name))
    except (OSError, EOFError):  # whatever it is: a class without images is refused by its name
        return False
    return bool(own_folders(path.removeprefix(base.rstrip("/") + "/") for path in files))


def all_class_names(url: str, listing: Listing) -> tuple[str, ...]:
    """Name all classes of a set, in the order of its own class ids."""
    if listing.kind == "builtin":
        return builtin_images(url)[2]
    if listing.kind == "folder":
        return tuple(sorted(class_folders(url, listing)))
    with open_parquet(url, listing.files["train"][0]) as parquet:
        schema = parquet.schema_arrow
        return parquet_class_names(schema, parquet_columns(schema, url)[1]) or ()


@contextlib.contextmanager
def open_parquet(url: str, file: str) -> Iterator[pq.ParquetFile]:
    """Open one of a set's Parquet files.

    Raises:
        DataError: if it is gone, or is damaged where it is read; names it.
    """
    fs, root = open_file_system(url)
    try:
        single = root.endswith(".parquet") and kind(fs, root) != "directory"
        path = root if single else posixpath.join(root, file)
        with open(path, "rb") if is_local(fs) else RangeFile(fs, path) as handle:
            yield open_table(handle)
    except (pa.ArrowException, OSError, EOFError) as exc:
        line = " ".join(str(exc).split())[:160]
        raise DataError(f"data.path={url}: {file} is no readable Parquet file ({line}); restore it") from exc


def row_group_starts(parquet: pq.ParquetFile) -> np.ndarray:
    """Give the first row of each row group, and the number of rows at the end."""
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def parquet_columns(schema: pa.Schema, where: str) -> tuple[str, str]:
    """Name the image and the label column.

    Raises:
        DataError: if one is missing or of another type; lists the columns found.
    """
    images = [field.name for field in schema if _holds_images(field.type)]
    labels = [field.name for field in schema if _holds_labels(field.type)]
    image = next((name for name in IMAGE_COLUMNS if name in images), None)
    label = next((name for name in LABEL_COLUMNS if name in labels), None)
    if image is None or label is None:
        wanted = f"{'/'.join(IMAGE_COLUMNS)} with bytes and {'/'.join(LABEL_COLUMNS)} with integers or text"
        raise DataError(f"{where}: has the columns {', '.join(schema.names)}; expected {wanted}")
    return image, label


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_labels(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def parquet_class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Read the class names that Hugging Face `datasets` keeps in a schema, if they are there."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def read_row_group(parquet: pq.ParquetFile, group: int, file: str) -> tuple[list[bytes | None], list[Any]]:
    """Read the encoded images and labels of a row group; None where a row holds no bytes."""
    image, label = parquet_columns(parquet.schema_arrow, file)
    table = read_rows(parquet, group, [image, label])
    column = table.column(image)
    # struct_field, unlike StructArray.field, keeps the null of a null struct.
    encoded = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    return encoded.to_pylist(), table.column(label).to_pylist()


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
