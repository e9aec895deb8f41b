"""What a submitted job runs: ``python -m ray_jobs.driver distill RECIPE ...`` is ``wmdd distill RECIPE ...`` on the
cluster that the job is in.
"""

from __future__ import annotations

import os

from wmdd.__main__ import main


def drive() -> None:
    """Run the command against the job's own cluster, or the one that runs on this machine."""
    os.environ.setdefault("RAY_ADDRESS", "auto")
    main()


if __name__ == "__main__":
    drive()
