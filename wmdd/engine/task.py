"""What a plan and its tasks are: names, plain values and keys, worked out before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wmdd.config.distill import DistillConfig
from wmdd.config.methods import made_set
from wmdd.data.index import DatasetIndex
from wmdd.stages.base import PlannedUnit
from wmdd.stages.planning import PlannedSet, image_sets
from wmdd.stages.plans.pretrain import TEACHER
from wmdd.storage.store import ArtifactRef

__all__ = ["Plan", "PlannedUnit", "StageTask"]


@dataclass(frozen=True)
class StageTask:
    """What an executor hands to a worker: names, plain values and keys, never a tensor.

    Args:
        name: of the unit, or of the group of units; it begins with the prefix.
        section: values of the configuration's section.
        prefix: names the plan among several that run together; for events alone.
    """

    stage: str
    name: str
    section: dict[str, Any]
    seed: int
    units: tuple[PlannedUnit, ...]
    prefix: str = ""

    @property
    def inputs(self) -> Iterator[ArtifactRef]:
        """The artifacts that its units need; of long lists that they share, such as all classes, only one is read."""
        lists = {id(refs): refs for unit in self.units for refs in unit.inputs.values()}
        for refs in lists.values():
            yield from (refs,) if isinstance(refs, ArtifactRef) else refs


def makes_images(task: StageTask) -> bool:
    """Whether distilled images wait for a task, once there is a teacher."""
    return task.stage in ("statistics", "barycenter", "recover")


def is_reference(task: StageTask) -> bool:
    """Whether a task makes labels of random images, or trains a student on them: it serves comparison alone."""
    return task.stage in ("relabel", "evaluate") and task.units[0].params.images != "distilled"


def comes_late(task: StageTask) -> bool:
    """Whether a task comes after those that images need: of a reference, or of a network that is not the teacher.

    Such a network is compared with students, or labels together with the teacher.
    """
    return is_reference(task) or (task.stage == "pretrain" and task.units[0].ref.unit != TEACHER)


@dataclass(frozen=True)
class Plan:
    """All tasks, stage by stage in the order of the data.

    Args:
        weights: digest of the file that the teacher is loaded from, if it is.
        until: the stage that it ends with, if it is not the last; later ones have no tasks.
    """

    config: DistillConfig
    index: DatasetIndex
    index_ref: ArtifactRef
    tasks: dict[str, tuple[StageTask, ...]] = field(default_factory=dict)
    weights: str | None = None
    until: str | None = None

    def units(self, stage: str) -> list[PlannedUnit]:
        """List a stage's units."""
        return [unit for task in self.tasks[stage] for unit in task.units]

    def refs(self, stage: str) -> list[ArtifactRef]:
        """List a stage's artifacts."""
        return [unit.ref for unit in self.units(stage)]

    @property
    def image_sets(self) -> dict[str, PlannedSet]:
        """The sets of images that students are trained on, by name."""
        return image_sets(self.config.atoms, self.units("recover"), self.units("select"))

    @property
    def made(self) -> tuple[str, list[ArtifactRef]]:
        """Name the set of images that the run is for, and list it class by class; empty if it ends before them."""
        name = made_set(self.config.method)
        images = self.image_sets.get(name)
        return name, images.refs if images else []
