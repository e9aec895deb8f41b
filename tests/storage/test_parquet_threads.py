"""Parquet is read in the calling thread: a thread of Arrow's can abort a process that is about to end."""

import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import each_of

from wmdd.storage import parquet as tables

READ = """
import io, json, os
import pyarrow as pa, pyarrow.parquet as pq
from wmdd.storage import parquet as tables

threads = lambda: len(os.listdir("/proc/self/task"))
out = io.BytesIO()
pq.write_table(pa.table({"n": list(range(3000)), "text": ["word"] * 3000}), out, row_group_size=1000)
before = threads()
whole = tables.read_table(out.getvalue())
with tables.open_table(io.BytesIO(out.getvalue())) as table:
    part = tables.read_rows(table, 1, ["n"])
ours = threads()
pq.read_table(io.BytesIO(out.getvalue()))
seen = [len(whole), part.column("n").to_pylist()[:2], part.column_names, ours - before, threads() - ours]
print(json.dumps(seen), flush=True)
os._exit(0)  # Arrow's threads can abort this very process as it ends
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_reading_starts_no_thread():
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True)
    rows, part, columns, ours, arrow = json.loads(done.stdout)
    assert (rows, part, columns) == (3000, [1000, 1001], ["n"])
    assert ours == 0
    assert arrow > 0  # Arrow's own way does start some: otherwise this test sees nothing


@each_of("rows", [0, 1, 7])
def test_columns_come_back_as_they_were(rows):
    kinds = (np.int32, np.int64, np.uint16, np.uint64, np.float32, np.bool_)
    columns = {np.dtype(kind).name: (np.arange(rows) * 3).astype(kind) for kind in kinds}
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=2)
    table = tables.read_table(out.getvalue())
    for name, values in columns.items():
        found = tables.column(table, name)
        assert found.tolist() == values.tolist()
        assert name == "bool" or found.dtype == values.dtype
    for name, values in columns.items():
        assert tables.column(table.slice(2, 3), name).tolist() == values[2:5].tolist()


def test_reading_columns_does_not_wait_for_pandas():
    pytest.importorskip("pandas", reason="pandas, which Ray brings, is not installed")
    code = (
        "import sys, pyarrow as pa; from wmdd.storage import parquet as tables;"
        "values = pa.Array.from_buffers(pa.int8(), 2, [None, pa.py_buffer(b'12')]);"
        "tables.column(pa.Table.from_arrays([values], ['n']), 'n'); print('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
