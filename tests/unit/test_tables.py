"""Parquet is read in the calling thread: a thread of Arrow's can abort a process that is about to end."""

import json
import subprocess
import sys

import pytest

READ = """
import io, json, os
import pyarrow as pa, pyarrow.parquet as pq
from wmdd import tables

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
