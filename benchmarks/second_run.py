"""How long does a run take that finds everything in the store? `python -m benchmarks.second_run`"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.common import report, seconds_of_run


def main() -> None:
    """Run `digits` twice in whole processes, on a fresh store; the second must start nothing."""
    with tempfile.TemporaryDirectory() as folder:
        first, units = seconds_of_run(folder, "digits"), _units(folder)
        second, units_after = seconds_of_run(folder, "digits"), _units(folder)
    report(
        "digits, second run",
        first_s=round(first, 1),
        second_s=round(second, 1),
        ratio=round(second / first, 3),
        units_first=units,
        units_second=units_after - units,
    )


def _units(folder: str) -> int:
    return Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").count('"kind": "unit"')


if __name__ == "__main__":
    main()
