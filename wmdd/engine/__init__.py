"""A run: its plan, the board of tasks, one function that runs a task anywhere, and what is seen of it."""

from typing import Any

from wmdd.process.exports import public

PUBLIC = {
    "events": ("Event",),
    "plan": ("make_plan",),
    "run": ("Executor", "LocalExecutor", "run_plan", "run_stage"),
    "task": ("Plan", "StageTask"),
}


def __getattr__(name: str) -> Any:
    """Return a public name."""
    return public(__name__, PUBLIC, name)
