"""Reading Parquet tables from memory."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(data: bytes) -> pa.Table:
    """Read a whole Parquet file, in this thread alone.

    Arrow's own threads give Python's buffers back a little late: one that does so while the process ends, after a
    refusal say, aborts it in place of its exit status.
    """
    with pq.ParquetFile(io.BytesIO(data)) as file:
        return file.read(use_threads=False)
