"""What people see of a finished run: scores, tables, pictures, the page."""

from typing import Any

from wmdd.process.exports import public

PUBLIC = {
    "folder": ("write_run",),
    "scores": ("collect_metrics",),
    "written": ("write_once",),
}


def __getattr__(name: str) -> Any:
    """Return a public name."""
    return public(__name__, PUBLIC, name)
