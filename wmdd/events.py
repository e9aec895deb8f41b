"""What a stage function yields while it runs, and what an executor tells its listeners."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wmdd.types import Artifact


@dataclass(frozen=True)
class Output:
    """A finished unit: saved as soon as it is yielded."""

    unit: str
    value: Artifact


@dataclass(frozen=True)
class Progress:
    """How far the current unit or group is: `done` of `total` steps, and what to say beside it."""

    done: int
    total: int
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """Where the unit could go on after a crash; replaces the snapshot before it."""

    data: bytes


@dataclass(frozen=True)
class Event:
    """News from a stage.

    Args:
        kind: ``stage`` (begins), ``unit`` (finished), ``progress``, ``retry``, ``note`` or ``end`` (of a stage).
        stage: its name.
        unit: the unit or group it is about.
        done, total: units of the stage, or steps of the unit (`progress`).
        text: a line for people.
        metrics: numbers for the run's metrics file.
    """

    kind: str
    stage: str
    unit: str = ""
    done: int = 0
    total: int = 0
    text: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
