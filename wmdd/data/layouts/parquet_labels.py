"""The labels of a Parquet set: the class of each, and which mark images without a class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wmdd.data.decoding.faults import REPLACE
from wmdd.data.hf_parquet import holds_text, open_parquet, parquet_class_names, parquet_columns
from wmdd.data.layouts.split_names import matched, spelling_note, twice
from wmdd.errors import DataError

_NO_LABEL = -1  # of images without one, as `datasets` and most published test splits have it
_SHOWN = 3
_MISSING = ("nan", "nat", "none", "null", "<na>", "n/a")  # as pandas and databases write it
_MERGE = "write one label in all of their rows, or name the classes in data.classes"


@dataclass(frozen=True)
class Labels:
    """What the labels of a set mean."""

    values: dict[Any, str]  # the class name of each label of the training split, in the order of class ids
    total: int  # rows of all files
    spelled: Mapping[str, str]  # validation labels in another spelling, with the label in `values` that each stands for
    doubt: str  # why a class may be none: the set is refused for it unless the user names the classes
    missing: str = ""  # a label that is written as a missing one, where no file declares the names of classes

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines about labels that are odd, or were read in an unusual way."""
        remedy = "to leave it out, name the others in data.classes"
        odd = (f"class {self.missing} has the name of a missing label; {remedy}",) if self.missing else ()
        return ((spelling_note(self.spelled),) if self.spelled else ()) + odd


def read_labels(url: str, listed: Mapping[str, tuple[str, ...]]) -> Labels:
    """Return the distinct labels of a set, and the class names that its files declare.

    Raises:
        DataError: if its files differ in the type of their labels, or in the names that they declare.
    """
    files = [(split, file) for split in ("train", "val") for file in listed[split]]
    first: _Declared | None = None
    total, labels = 0, {"train": set[Any](), "val": set[Any]()}
    for split, file in files:
        with open_parquet(url, file) as parquet:
            schema = parquet.schema_arrow
            label = parquet_columns(schema, f"data.path={url}: {file}")[1]
            declared = _Declared(file, schema.field(label).type, parquet_class_names(schema, label))
            first = first or declared
            _refuse_two_kinds(url, first, declared)
            total += parquet.metadata.num_rows
            if declared.names is None:
                labels[split] |= {value for value in _distinct(parquet, label) if not is_missing(value)}
    assert first is not None, "a set has files"
    is_text = holds_text(first.kind)
    if first.names is not None:
        by_value = first.names if is_text else range(len(first.names))
        values: dict[Any, str] = dict(zip(by_value, first.names, strict=True))
        return Labels(values, total, {}, twice(first.names, _MERGE))
    values = {value: str(value) for value in sorted(labels["train"])}
    if not is_text:
        return Labels(values, total, {}, _unlabelled(values))
    missing = next((name for name in values if name.strip().casefold() in _MISSING), "")
    return Labels(values, total, matched(values, labels["val"]), twice(values.values(), _MERGE), missing)


@dataclass(frozen=True)
class _Declared:
    """What a file declares about its labels."""

    file: str
    kind: pa.DataType
    names: tuple[str, ...] | None


def _refuse_two_kinds(url: str, first: _Declared, other: _Declared) -> None:
    if holds_text(first.kind) != holds_text(other.kind):
        raise DataError(
            f"data.path={url}: {other.file} has labels of type {other.kind}, and {first.file} of type {first.kind}; "
            "write both with the same"
        )
    if first.names != other.names:
        raise DataError(
            f"data.path={url}: {other.file} declares other class names than {first.file}; write both with the same"
        )


def is_missing(label: Any) -> bool:
    """Whether a label is null, or text without a letter."""
    return label is None or (isinstance(label, str) and not label.strip())


def _unlabelled(values: Collection[Any]) -> str:
    """Return why -1 is hardly a class; "" if it is the counterpart of 1."""
    if _NO_LABEL not in values or set(values) <= {_NO_LABEL, 1}:
        return ""
    shown = [",".join(map(str, names[:_SHOWN])) for names in ([v for v in values if v != _NO_LABEL], list(values))]
    more = ",..." if len(values) > _SHOWN else ""
    return (
        f"label {_NO_LABEL} marks images without a label nearly everywhere; name the classes: data.classes "
        f"{shown[0]}{more} leaves these images out, {shown[1]}{more} takes it for a class"
    )


def _distinct(parquet: pq.ParquetFile, label: str) -> set[Any]:
    """Return the distinct labels of a file."""
    column = parquet.read(columns=[label], use_threads=False).column(label)
    # Neither views nor dictionaries of views have a kernel for this.
    return set((column.cast(pa.large_string()) if holds_text(column.type) else column).unique().to_pylist())


def unlabelled_row(where: str, label: Any, count: int) -> str:
    """Return what is wrong with a label that stands for none of the classes, and the remedy."""
    if is_missing(label):
        return f"{where} has no label ({label!r}); {REPLACE}"
    remedy = "move the files of a split without labels away" if label == _NO_LABEL else REPLACE
    return f"{where} has label {label!r}, which is none of {count} classes; {remedy}"
