"""Tables of numbers, and reading Parquet in the calling thread alone.

Arrow's threads release Python's buffers a little late: one that does so while the process ends, for instance after a
refusal, aborts it, and its exit status is lost. So none may be started: neither to decode nor to read ahead.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.spec import AbstractBufferedFile

from wmdd.storage.archives import read_member
from wmdd.storage.filesystem import again


class RangeFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file of any file system, read in parts, each of them retried if it fails; holds no connection."""

    def __init__(self, fs: Any, path: str) -> None:
        super().__init__(fs, path, cache_type="none", size=int(again(fs.info, path)["size"]))

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = again(read_member, self.fs, self.path, start, min(end, self.size))
        return data


def open_table(file: io.IOBase) -> pq.ParquetFile:
    """Return an open Parquet file; raise pa.ArrowInvalid if it is none."""
    return pq.ParquetFile(file, pre_buffer=False)


def read_rows(table: pq.ParquetFile, row_group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a row group, with all columns or some."""
    return table.read_row_group(row_group, columns=columns, use_threads=False)


def read_table(data: bytes) -> pa.Table:
    """Return the table of a whole Parquet file."""
    with open_table(io.BytesIO(data)) as table:
        return table.read(use_threads=False)


def column(table: pa.Table, name: str) -> np.ndarray:
    """Return a column of numbers without nulls; truth values as 0 and 1.

    ``ChunkedArray.to_numpy`` would import pandas where it is installed, for a second in every worker.
    """
    values = table.column(name).combine_chunks()
    return np.from_dlpack(values.cast(pa.uint8()) if pa.types.is_boolean(values.type) else values)


def number_table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Return (n,) columns of numbers as a table. ``pa.array`` would import pandas, as in `column`."""
    arrays = [
        pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
        for values in map(np.ascontiguousarray, columns.values())
    ]
    return pa.Table.from_arrays(arrays, list(columns))
