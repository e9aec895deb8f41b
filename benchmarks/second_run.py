"""How long does a run take that finds everything in the store? `python -m benchmarks.second_run`"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import report


def main() -> None:
    """Run `digits` twice in whole processes, on a fresh store; the second must start nothing."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            command = [sys.executable, "-m", "wmdd", "distill", "digits"]
            command += ["--store", f"{folder}/store", "--run", f"{folder}/run"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begun)
            units = Path(folder, "run", "metrics.jsonl").read_text().count('"kind": "unit"')
            seconds.append(units)
    first, units, second, units_after = seconds
    report(
        "digits, second run",
        first_s=round(first, 1),
        second_s=round(second, 1),
        ratio=round(second / first, 3),
        units_first=units,
        units_second=units_after - units,
    )


if __name__ == "__main__":
    main()
