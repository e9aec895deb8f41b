"""What an executor reports while a plan runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """News from a run.

    Args:
        kind: one of
            ``stage`` (its first task begins; `done` of `total` units are there) and ``end`` (its last has ended),
            ``begin``, ``done``, ``retry``, ``failed`` (a task), ``unit`` (saved), ``progress`` (steps of a unit),
            ``workers`` (who is there: `metrics` counts them by node), ``note`` (a line for people).
        stage: its name; empty where the news is not of one stage.
        unit: the unit or task it is about.
        done, total: units of the stage, or steps of the unit (`progress`).
        text: a line for people.
        metrics: numbers for the run's metrics file.
        node: where it happened, when that is not this process.
        begun: steps of the unit that were there when a process took it up (`progress`).
        units: how many units the steps are of (`progress`); 0: all of the task.
        task: of which the saved unit is (`unit`).
    """

    kind: str
    stage: str
    unit: str = ""
    done: int = 0
    total: int = 0
    text: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    node: str = ""
    begun: int = 0
    units: int = 0
    task: str = ""


Listener = Callable[[Event], None]
