"""The image schema of Hugging Face `datasets` in Parquet, read and written here alone.

A table has a column of images (a struct of encoded ``bytes`` and a ``path``, or plain bytes) and a column of labels;
its metadata, ``huggingface``, declares the type of each column and the names of the classes. Tables that others wrote
are read by the types and usual names of their columns, declared or not.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wmdd.data.decoding.faults import placeholder
from wmdd.data.layouts.set_files import open_file_system
from wmdd.errors import DataError
from wmdd.storage.archives import read_member
from wmdd.storage.filesystem import is_local, kind
from wmdd.storage.parquet import RangeFile, open_table, read_rows
from wmdd.text import one_line

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "photo", "picture", "images")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class", "class_label", "category", "target", "y")
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SHOWN_COLUMNS = 8


def image_table(
    images: Iterable[tuple[bytes, str]],
    labels: Iterable[int],
    class_names: Sequence[str],
    values: Mapping[str, tuple[str, list[Any]]] | None = None,
) -> pa.Table:
    """Return a table of encoded images.

    Args:
        images: encoded bytes and the name of the file, which need not exist.
        labels: positions in `class_names`.
        values: further columns by name, each a type such as ``float32`` and what it holds.
    """
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
    }
    columns = {
        "image": pa.array([{"bytes": data, "path": path} for data, path in images], _IMAGE),
        "label": pa.array(list(labels), pa.int64()),
    }
    for name, (dtype, items) in (values or {}).items():
        features[name] = {"dtype": dtype, "_type": "Value"}
        columns[name] = pa.array(items, pa.type_for_alias(dtype))
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def encoded_images(column: pa.ChunkedArray) -> list[bytes | None]:
    """Return the bytes of a column of images; None where a row holds none."""
    # struct_field, unlike StructArray.field, keeps the null of a null struct.
    encoded = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    images: list[bytes | None] = encoded.to_pylist()
    return images


def is_parquet(path: str) -> bool:
    """Whether a file is Parquet, by its name."""
    return path.lower().endswith(".parquet")


@contextlib.contextmanager
def open_parquet(url: str, file: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of a set.

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
            if fault := placeholder(read_member(fs, path, 0, 4096)):
                raise DataError(f"data.path={url}: {file} {fault[0]}; {fault[1]}") from exc
        raise DataError(
            f"data.path={url}: {file} is no readable Parquet file ({one_line(exc, 160)}); restore it"
        ) from exc


def row_group_starts(parquet: pq.ParquetFile) -> np.ndarray:
    """Return the first row of each row group, and the number of rows at the end."""
    sizes = (parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups))
    return np.cumsum([0, *sizes])


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
    """Return the column of a known name, else the only one that is declared with the wanted type."""
    for name in names:
        if named := [c for c in columns if c == name] or [c for c in columns if c.lower() == name]:
            return named[0]
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
    """Return the declared types of columns; nothing if the table declares none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def parquet_class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Return the class names that a table declares; None if it declares none."""
    try:
        return tuple(str(name) for name in _features(schema)[label]["names"])
    except (KeyError, TypeError):
        return None


def read_row_group(
    parquet: pq.ParquetFile, group: int, file: str
) -> tuple[list[bytes | None], list[Any], list[str | None]]:
    """Return the encoded images, labels and names of files of a row group; None for what a row lacks."""
    image, label = parquet_columns(parquet.schema_arrow, file)
    table = read_rows(parquet, group, [image, label])
    column = table.column(image)
    images, labels = encoded_images(column), table.column(label).to_pylist()
    paths: list[str | None] = [None] * len(column)
    # A name is needed only in place of bytes: with them, it may be no text that Python reads.
    if None in images and pa.types.is_struct(column.type) and column.type.get_field_index("path") >= 0:
        paths = pc.struct_field(column, "path").to_pylist()
    return images, labels, paths
