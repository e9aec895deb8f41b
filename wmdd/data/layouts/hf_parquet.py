"""Parquet in the Hugging Face image layout: which files are of which split, their columns, classes and rows."""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wmdd.data.decoding.faults import placeholder
from wmdd.data.layouts.folder_tree import Folders
from wmdd.data.layouts.recognise import has_training_folder
from wmdd.data.layouts.set_files import open_file_system
from wmdd.data.layouts.split_names import SPLIT_NAMES, VAL_NAMES, split_role
from wmdd.errors import DataError
from wmdd.storage.archives import read_member
from wmdd.storage.filesystem import RangeFile, is_local, kind
from wmdd.storage.parquet import open_table, read_rows

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "photo", "picture", "images")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class", "class_label", "category", "target", "y")
_PART = re.compile(r"(?P<stem>.*?)[-_.](?P<part>\d+)-of-(?P<count>\d+)(?P<rest>.*)\.parquet", re.IGNORECASE)
# 0003.parquet, train-3.parquet, shard_0003.parquet.
_NUMBERED = re.compile(r"(?P<stem>(?:.*/)?(?:[^/]*?(?P<word>[^\W\d_]+)[-_. ]?)?)(?P<part>\d+)\.parquet", re.IGNORECASE)
_PART_WORDS = ("part", "parts", "shard", "shards", "chunk", "chunks", "block", "batch", "data", "file", "images")
_SHOWN_COLUMNS = 8


def is_parquet(path: str) -> bool:
    """Whether a file is Parquet, by its name."""
    return path.lower().endswith(".parquet")


def parquet_decides(url: str, paths: Sequence[str], tree: Folders) -> bool:
    """Whether a set is its Parquet files, and not the images that lie in folders beside them."""
    if not tree.below(""):
        return True
    if has_training_folder(tree):
        return False
    near = [path for path in paths if _home(path).count("/") == 0]
    for path in sorted(near, key=lambda path: not _of_split(path, "train"))[:1]:
        with open_parquet(url, path) as parquet, contextlib.suppress(DataError):
            parquet_columns(parquet.schema_arrow, path)
            return True
    return False


def parquet_splits(paths: Sequence[str], url: str) -> dict[str, tuple[str, ...]]:
    """Return the files of each split, by their names.

    Raises:
        DataError: if none is for training, they are of several sets, or parts are missing.
    """
    below = {name: tuple(path for path in paths if _of_split(path, name)) for name in SPLIT_NAMES}
    named = next((name for name in VAL_NAMES if below[name]), None)
    train = below["train"] or _spelled(paths, "train") or (tuple(paths) if len(paths) == 1 and not named else ())
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
    role = split_role(_stem(train[0]))
    others = role.others if role else ()  # cifar10 of cifar10_train goes with cifar10_test, not with eval_scores
    val = below[named] if named else _spelled(paths, "val", others) or _spelled(paths, "test", others)
    files = {"train": train, "val": tuple(path for path in val if path not in train)}
    for listed in files.values():
        _refuse_gaps(url, listed)
    return files


def _home(path: str) -> str:
    """Return the folder of the set that a training file is of; below its train there may be folders of parts."""
    folders = path.split("/")[:-1]
    trains = [place for place, name in enumerate(folders) if _says(name) == "train"]
    return "/".join(folders[: trains[0]] if trains else folders)


def _of_split(path: str, name: str) -> bool:
    *folders, file = path.split("/")
    return name in folders or file.startswith((f"{name}-", f"{name}.", f"{name}_"))


def _spelled(paths: Sequence[str], split: str, others: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Return the files of a split whose names spell it in another way: ``Train.parquet``, ``cats_dev-0.parquet``."""
    found = {path: split_role(_stem(path)) for path in paths}
    known = {path: role for path, role in found.items() if role and role.split == split}
    known = {path: role for path, role in known.items() if others in (None, role.others)}
    best = min(((role.rank, role.others) for role in known.values()), default=None)
    named = tuple(path for path, role in known.items() if (role.rank, role.others) == best)
    return named or tuple(path for path in paths if any(_says(name) == split for name in path.split("/")[:-1]))


def _says(name: str) -> str:
    role = split_role(name)
    return role.split if role and role.rank < 2 else ""


def _stem(path: str) -> str:
    """Return a file's name without the number of its part, and what follows it."""
    file = path.rpartition("/")[2]
    part = _PART.fullmatch(file)
    return part["stem"] if part else file[: -len(".parquet")]


def _refuse_gaps(url: str, paths: Sequence[str]) -> None:
    """Refuse files that are named as parts of a whole, which is not there or is there twice."""
    wholes: dict[tuple[str, str], dict[int, str]] = {}
    for path in paths:
        if found := _PART.fullmatch(path):
            parts = wholes.setdefault((found["stem"], found["count"]), {})
            other = parts.setdefault(int(found["part"]), path)
            if other != path:
                raise DataError(f"data.path={url}: {other} and {path} are the same part; keep one")
    for (stem, count), parts in wholes.items():
        other_count = next((other for name, other in wholes if name == stem and other != count), None)
        if other_count is not None:
            raise DataError(
                f"data.path={url}: {stem} is there as parts -of-{count} and -of-{other_count}; keep one of them"
            )
        gaps = sorted(set(range(int(count))) - set(parts))
        if gaps:
            raise DataError(
                f"data.path={url}: {stem}-{gaps[0]:0{len(count)}d}-of-{count}.parquet {_and_more(gaps)} missing; fetch "
                f"what is missing or, to use what is there, rename the files without -of-{count}"
            )
    _refuse_skipped_numbers(url, paths)


def _refuse_skipped_numbers(url: str, paths: Sequence[str]) -> None:
    """Refuse parts that are numbered from 0 or 1 on without a total, if a number between two of them is missing."""
    wholes: dict[str, set[str]] = {}
    for path in paths:
        found = _NUMBERED.fullmatch(path)
        # Numbers of a subject, a month or a class need not be consecutive.
        if found and (found["word"] is None or found["word"].lower() in _PART_WORDS or _says(found["word"])):
            wholes.setdefault(found["stem"], set()).add(found["part"])
    for stem, parts in wholes.items():
        numbers, widths = set(map(int, parts)), set(map(len, parts))
        gaps = sorted(set(range(min(numbers), max(numbers))) - numbers)
        padded = len(widths) == 1 and widths != {1}
        # 0.parquet and 7.parquet alone may have been chosen by their numbers, 0000.parquet and 0007.parquet were not.
        counted = all(part == str(int(part)) for part in parts) and len(gaps) < len(parts)
        if gaps and min(numbers) <= 1 and (padded or counted):
            first = f"{stem}{gaps[0]:0{max(widths) if padded else 1}d}.parquet"
            raise DataError(
                f"data.path={url}: {first} {_and_more(gaps)} missing; fetch what is missing or, to use what is there, "
                "number the files without a gap"
            )


def _and_more(gaps: Sequence[int]) -> str:
    return {1: "is", 2: "and one more are"}.get(len(gaps), f"and {len(gaps) - 1} more are")


@contextlib.contextmanager
def open_parquet(url: str, file: str) -> Iterator[pq.ParquetFile]:
    """Open one of a set's Parquet files.

    Raises:
        DataError: if it is gone, or is damaged where it is read; names it.
    """
    fs, root = open_file_system(url)
    path = root
    try:
        single = is_parquet(root) and kind(fs, root) != "directory"
        path = root if single else posixpath.join(root, file)
        with open(path, "rb") if is_local(fs) else RangeFile(fs, path) as handle:
            yield open_table(handle)
    except (pa.ArrowException, OSError, EOFError) as exc:
        with contextlib.suppress(OSError, EOFError):
            if found := placeholder(read_member(fs, path, 0, 4096)):
                raise DataError(f"data.path={url}: {file} {found[0]}; {found[1]}") from exc
        line = " ".join(str(exc).split())[:160]
        raise DataError(f"data.path={url}: {file} is no readable Parquet file ({line}); restore it") from exc


def row_group_starts(parquet: pq.ParquetFile) -> np.ndarray:
    """Return the first row of each row group, and the number of rows at the end."""
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def parquet_columns(schema: pa.Schema, where: str) -> tuple[str, str]:
    """Return the names of the image and the label column.

    Raises:
        DataError: if one is missing or of another type; lists the columns found.
    """
    images = [field.name for field in schema if _holds_images(field.type)]
    labels = [field.name for field in schema if _holds_labels(field.type)]
    declared = _features(schema)
    image = _named(images, IMAGE_COLUMNS, declared, "Image") or (images[0] if len(images) == 1 else None)
    label = _named(labels, LABEL_COLUMNS, declared, "ClassLabel")
    if image is None or label is None:
        shown = [f"{field.name} ({_shown(field.type)})" for field in schema]
        more = f" and {len(shown) - _SHOWN_COLUMNS} more" if len(shown) > _SHOWN_COLUMNS else ""
        wanted = f"{'/'.join(IMAGE_COLUMNS[:2])} with bytes and {'/'.join(LABEL_COLUMNS[:3])} with integers or text"
        raise DataError(f"{where}: has the columns {', '.join(shown[:_SHOWN_COLUMNS])}{more}; expected {wanted}")
    return image, label


def _named(columns: Sequence[str], names: Sequence[str], declared: dict[str, Any], kind: str) -> str | None:
    """Return the column of a known name, else the only one that is declared to hold what is wanted."""
    for name in names:
        found = [column for column in columns if column == name] or [c for c in columns if c.lower() == name]
        if found:
            return found[0]
    typed = [c for c in columns if isinstance(declared.get(c), dict) and declared[c].get("_type") == kind]
    return typed[0] if len(typed) == 1 else None


def _shown(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _holds_labels(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or holds_text(kind))


def holds_text(kind: pa.DataType) -> bool:
    """Whether the values of a column are text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Read the types of columns that Hugging Face `datasets` keeps in a schema, if they are there."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def parquet_class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Read the class names that Hugging Face `datasets` keeps in a schema, if they are there."""
    try:
        return tuple(str(name) for name in _features(schema)[label]["names"])
    except (KeyError, TypeError):
        return None


def read_row_group(parquet: pq.ParquetFile, group: int, file: str) -> tuple[list[bytes | None], list[Any]]:
    """Read the encoded images and labels of a row group; None where a row holds no bytes."""
    image, label = parquet_columns(parquet.schema_arrow, file)
    table = read_rows(parquet, group, [image, label])
    column = table.column(image)
    # struct_field, unlike StructArray.field, keeps the null of a null struct.
    encoded = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    return encoded.to_pylist(), table.column(label).to_pylist()


def read_image_paths(parquet: pq.ParquetFile, group: int, file: str) -> list[str | None]:
    """Read the names of files that a row group has beside, or in place of, the bytes of images."""
    image, _ = parquet_columns(parquet.schema_arrow, file)
    column = read_rows(parquet, group, [image]).column(image)
    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return [None] * len(column)
    return [str(path) if path else None for path in pc.struct_field(column, "path").to_pylist()]
