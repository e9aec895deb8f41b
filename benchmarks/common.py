"""What the benchmarks share: a whole run to time, and one JSON line out, with the machine that it was measured on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from wmdd.config.machines import RuntimeConfig
from wmdd.runtime import Runtime


def report(question: str, **figures: Any) -> None:
    """Print one JSON line. Timings are only comparable within a line; quote ratios."""
    machine = Runtime.create(RuntimeConfig()).describe()
    print(json.dumps({"benchmark": question, **figures, "machine": machine}))


def seconds_of_run(folder: str, recipe: str, *words: str) -> float:
    """Return the seconds of a run as a user starts it, with its run folder and its store in `folder`."""
    command = [sys.executable, "-m", "wmdd", "distill", recipe, *words, "--run", "run", "--store", "store"]
    begun = time.monotonic()
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begun
