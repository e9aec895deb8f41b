"""The shape that every stage has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wmdd.config.sections import Section
from wmdd.outputs import Failure, Note, Output, Progress, Snapshot
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.storage.artifact import Artifact
from wmdd.storage.store import ArtifactRef

Yielded = Output | Progress | Note | Snapshot | Failure
Inputs = dict[str, ArtifactRef | tuple[ArtifactRef, ...]]


@dataclass(frozen=True)
class PlannedUnit:
    """A unit of work before it is run: its artifact, its params and where its inputs come from."""

    ref: ArtifactRef
    params: dict[str, Any]
    inputs: Inputs


@dataclass(frozen=True, eq=False)
class Unit:
    """One unit of work as a stage function sees it.

    Args:
        name: such as ``class-0003``; unique within the stage.
        params: plain facts that belong to the unit and to its key.
        load: gives a named input; loaded when asked for, so that memory holds one unit's inputs at a time.
        resume: the last `Snapshot` of a run that was interrupted, if any; the first unit has that of a joint task.
        saved: it is in the store, and computed again only because others of a joint task are missing.
    """

    name: str
    params: dict[str, Any]
    load: Callable[[str], Any]
    resume: bytes | None = field(default=None)
    saved: bool = False


@dataclass(frozen=True, eq=False)
class Stage:
    """A pure function with a name.

    Args:
        name: as in the store and the report.
        version: raised whenever the numbers of its output move.
        section: the configuration's section that it reads.
        kind: what one unit yields.
        function: (section, units, seeds, runtime) -> outputs and progress, in any order.
        joint: the units of a task are one computation, so that all are run when any is missing.
        snapshots: its units, or its joint tasks, leave snapshots to go on from.
    """

    name: str
    version: int
    section: str
    kind: type[Artifact]
    function: Callable[[Any, list[Unit], SeedTree, Runtime], Iterator[Yielded]]
    joint: bool = False
    snapshots: bool = False

    def run(self, section: Section, units: list[Unit], seeds: SeedTree, runtime: Runtime) -> Iterator[Yielded]:
        """Run some of its units."""
        runtime.enter()
        yield from self.function(section, units, seeds, runtime)
