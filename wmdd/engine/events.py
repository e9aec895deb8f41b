"""What an executor reports while a plan runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """What happened in a run.

    Args:
        kind: one of
            ``stage`` (its first task begins; `done` of `total` units are there) and ``end`` (its last has ended),
            ``begin``, ``done``, ``retry``, ``failed`` (a task), ``unit`` (saved), ``progress`` (steps of a unit),
            ``workers`` (`metrics` counts those that are there by node), ``note`` (a line for the user).
        stage: its name; empty if the event is not about one stage.
        unit: the unit or task it is about.
        done, total: units of the stage, or steps of the unit (`progress`).
        text: a line for the user.
        metrics: numbers for the run's metrics file.
        node: where it happened, if not in this process.
        begun: steps of the unit that were done before this process took it up (`progress`).
        units: number of units that the steps are of (`progress`); 0: all of the task.
        task: that the saved unit is part of (`unit`).
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


def both(*listeners: Listener) -> Listener:
    """Return a listener that calls several ones."""

    def listen(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return listen
