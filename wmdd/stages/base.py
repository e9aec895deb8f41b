"""The shape that every stage has, and its units: as they are planned, and as its function gets them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wmdd.config.base import Section
from wmdd.config.distill import DistillConfig
from wmdd.outputs import Failure, Note, Output, Progress, Snapshot
from wmdd.process.loading import collector_paused
from wmdd.seeding import SeedTree
from wmdd.storage.artifact import Artifact
from wmdd.storage.store import ArtifactRef

if TYPE_CHECKING:
    from wmdd.runtime import Runtime
    from wmdd.stages.planning import Planner

P = TypeVar("P")
Yielded = Output | Progress | Note | Snapshot | Failure
Inputs = dict[str, ArtifactRef | tuple[ArtifactRef, ...]]


@dataclass(frozen=True)
class PlannedUnit:
    """A unit of work before it is run: its artifact, its stage's `Params`, and its inputs by name.

    Args:
        whole: the artifact of the whole computation, if this is its first part; it goes on from this part's snapshot.
    """

    ref: ArtifactRef
    params: Any
    inputs: Inputs
    whole: ArtifactRef | None = None


Groups = list[list[PlannedUnit]]


@dataclass(frozen=True, eq=False)
class Unit(Generic[P]):
    """One unit of work as a stage function gets it.

    Args:
        name: such as ``class-0003``; unique within the stage.
        params: the stage's `Params` of this unit.
        load: returns a named input; loaded on request, so that memory holds one unit's inputs at a time.
        resume: the last `Snapshot` of a run that was interrupted, if any; the first unit has that of a joint task.
        saved: it is in the store, and computed again only because others of a joint task are missing.
    """

    name: str
    params: P
    load: Callable[[str], Any]
    resume: bytes | None = None
    saved: bool = False


Function = Callable[[Any, list[Unit[Any]], SeedTree, "Runtime"], Iterator[Yielded]]


@dataclass(frozen=True, eq=False)
class Stage:
    """A pure function with a name.

    Its function and artifact are named, and imported on use: planning needs no torch.

    Args:
        name: as in the store and the report.
        version: raised whenever the numbers of its output move, or a default that its keys leave out.
        section: the configuration's section that it reads; none if empty.
        yields: ``module:class`` of what one unit yields.
        params: the dataclass of a unit's params.
        plan: returns the units of a run in groups; a group is what one worker gets.
        runs: ``module:function`` of its function: (section, units, seeds, runtime) -> outputs and progress.
        gpu: it runs networks, on a GPU if the run has any; its keys then hold the precision.
        joint: the units of a task are one computation, so that all are run when any is missing.
        snapshots: its units, or its joint tasks, leave snapshots to resume from.
    """

    name: str
    version: int
    section: str
    yields: str
    params: type
    plan: Callable[[Planner], Groups]
    runs: str
    gpu: bool = True
    joint: bool = False
    snapshots: bool = False

    @property
    def kind(self) -> type[Artifact]:
        """The type of what one unit yields."""
        kind: type[Artifact] = pkgutil.resolve_name(self.yields)
        return kind

    def section_of(self, config: DistillConfig) -> Section:
        """Return the section that it reads; one without options if it reads none."""
        section: Section = getattr(config.settled(), self.section) if self.section else Section()
        return section

    def run(self, section: Section, units: list[Unit[Any]], seeds: SeedTree, runtime: Runtime) -> Iterator[Yielded]:
        """Run some of its units."""
        runtime.enter()
        with collector_paused():
            function: Function = pkgutil.resolve_name(self.runs)
        yield from function(section, units, seeds, runtime)
