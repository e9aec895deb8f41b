"""What the benchmarks share that are no steps: one JSON line out, with the machine that it was measured on."""

from __future__ import annotations

import json
from typing import Any

from wmdd.config.machines import RuntimeConfig
from wmdd.runtime import Runtime


def report(question: str, **figures: Any) -> None:
    """Print one JSON line. Timings are only comparable within a line; quote ratios."""
    print(json.dumps({"benchmark": question, **figures, "machine": machine()}))


def machine() -> dict[str, Any]:
    """Return this machine as the runtime describes it."""
    return dict(Runtime.create(RuntimeConfig()).describe())
