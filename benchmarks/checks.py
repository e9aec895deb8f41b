"""Step: the tests marked ``gpu``, which run on the CPU too where there is no GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.steps import Record, Setting

FOLDER = Path(__file__).parents[1] / "tests" / "gpu"
FILES = ("test_waits.py", "test_device_memory.py", "test_repeatability.py", "test_agreement.py")  # most important first
SHOWN = 12  # lines of each failure
OPTIONS = ("-q", "-o", "addopts=", "-p", "no:cacheprovider")


class _Counter:
    """Counts the tests as they end."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._ended: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._failures: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Record a phase of a test."""
        name = report.nodeid.rpartition("/")[2]
        self._seconds[name] = round(self._seconds.get(name, 0.0) + report.duration, 2)
        if report.when == "call" or not report.passed:
            self._ended[report.outcome] = self._ended.get(report.outcome, 0) + 1
            if report.failed:
                self._failures[name] = str(report.longrepr).splitlines()[-SHOWN:]
            counts = ", ".join(f"{count} {outcome}" for outcome, count in self._ended.items())
            failed = "".join(f"\nfailed: {test}" for test in self._failures)
            self._record(tests=self._seconds, failures=self._failures, result=counts + failed)


def run(setting: Setting, record: Record) -> None:
    """Run the tests; a failure of one fails the step, when all have run."""
    if setting.toy:
        os.environ["WMDD_TEST_DEVICE"] = "cpu"
    chosen = "gpu and not slow" if setting.toy else "gpu"
    status = pytest.main([*OPTIONS, "-m", chosen, *(str(FOLDER / name) for name in FILES)], plugins=[_Counter(record)])
    if status:
        raise SystemExit(1)
