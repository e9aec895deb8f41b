"""What a submitted job runs: ``python -m ray_jobs.driver distill RECIPE ...`` is ``wmdd distill RECIPE ...`` on the
cluster that the job is in. SIGTERM ends it like Ctrl-C: what is finished is kept.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from wmdd.cli import main


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not cut the first one's tidying short
    raise KeyboardInterrupt


def drive() -> None:
    """Run the command against the job's own cluster, or the one that runs on this machine."""
    os.environ.setdefault("RAY_ADDRESS", "auto")
    signal.signal(signal.SIGTERM, _stop)
    main(sys.argv[1:])


if __name__ == "__main__":
    drive()
