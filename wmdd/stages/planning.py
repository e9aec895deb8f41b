"""What a stage plans its units from, and how a unit gets its key."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from wmdd.config.base import Section
from wmdd.config.distill import DistillConfig
from wmdd.config.fidelity import Fidelity
from wmdd.config.methods import selections, uses
from wmdd.config.students import RelabelConfig
from wmdd.data.geometry import Geometry
from wmdd.data.index import DatasetIndex
from wmdd.keys import content_key
from wmdd.method.batch_sizes import with_equal_steps
from wmdd.stages.base import Groups, Inputs, PlannedUnit, Stage
from wmdd.storage.store import ArtifactRef

UNKEYED = {"keyed": False}  # metadata of a param that changes no output, or that the key holds in another form
IMAGES_PER_BATCH = 100  # fills a GPU; more classes in a task would leave fewer tasks than a cluster has GPUs


def classes_together(config: DistillConfig, num_classes: int) -> int:
    """Return how many classes share a tensor batch of recovery."""
    # Images that are to match the statistics of all classes together need many classes in a batch.
    images = 1 if config.recover.bn_target == "global" else config.atoms
    return min(num_classes, config.recover.classes_per_batch or max(1, IMAGES_PER_BATCH // images))


def images_together(config: DistillConfig, classes: int) -> int | None:
    """Return how many images of each of some classes share a tensor batch of recovery; None for all."""
    return max(1, IMAGES_PER_BATCH // classes) if config.recover.bn_target == "global" else None


@dataclass(frozen=True)
class PlannedSet:
    """A set of images that students are trained on.

    Args:
        ipc: images per class, as networks see them: tiles are enlarged to images.
        draw: number of the random draw, which is the seed of its only student; None if every student has this set.
        refs: its artifacts, one for each class.
    """

    ipc: int
    draw: int | None
    refs: list[ArtifactRef] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.ipc * len(self.refs)


@dataclass(frozen=True)
class ClassParams:
    """The params of a unit that needs to know no more than its class."""

    class_id: int


@dataclass(frozen=True, eq=False)
class Planner:
    """A run as far as it is planned.

    Args:
        level: how much of the run is done.
        weights: digest of the file that the teacher is loaded from, if it is.
        planned: the groups of units of the stages so far, by stage.
    """

    config: DistillConfig
    index: DatasetIndex
    index_ref: ArtifactRef
    level: Fidelity
    weights: str | None
    planned: dict[str, Groups] = field(default_factory=dict)
    _sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def units(self, stage: str) -> list[PlannedUnit]:
        """List the units of a stage that is planned."""
        return [unit for group in self.planned[stage] for unit in group]

    def barycenters(self, atoms: int) -> list[ArtifactRef]:
        """List the barycenters of the classes, of two of a class the one with this number of atoms."""
        return [unit.ref for unit in self.units("barycenter") if unit.params.ipc == atoms]

    @property
    def teacher(self) -> ArtifactRef:
        """The teacher: the first network of all."""
        return self.units("pretrain")[0].ref

    @functools.cached_property
    def geometry(self) -> Geometry:
        """How images become inputs of networks."""
        return Geometry(**self.config.data.geometry())

    @property
    def selections(self) -> list[str]:
        """The selections of real images: the method, if it is one, and the baselines."""
        return selections(self.config.method, self.config.evaluate.baselines)

    def uses(self, stage: str) -> bool:
        """Whether images are made or selected by the results of a stage, such as ``barycenter``."""
        return uses(stage, self.config.method, self.config.evaluate.baselines)

    @property
    def image_sets(self) -> dict[str, PlannedSet]:
        """The sets of images that students are trained on, by name."""
        return image_sets(self.config.atoms, self.units("recover"), self.units("select"))

    def relabel(self, images: PlannedSet) -> RelabelConfig:
        """Return how a set is labelled: with more images for about as many steps."""
        return with_equal_steps(self.config.relabel, self.config.ipc * len(images.refs), len(images))

    @property
    def worth_sizes(self) -> list[int]:
        """The numbers of random real images per class whose students show what the distilled ones are worth.

        They are at most the images of the smallest class.
        """
        if not self.config.evaluate.worth:
            return []
        smallest = smallest_class(self.index, self.class_ids)
        return sorted({min(times * self.config.ipc, smallest) for times in self.config.evaluate.worth})

    def groups(self) -> list[range]:
        """Cut the classes into groups that share a tensor batch, and choose those of the level."""
        count = len(self.index.class_names)
        size = classes_together(self.config, count)
        groups = [range(start, min(start + size, count)) for start in range(0, count, size)]
        return [groups[number] for number in self.level.groups(len(groups))]

    @property
    def class_ids(self) -> list[int]:
        """The classes of the level."""
        return [class_id for group in self.groups() for class_id in group]

    def unit(
        self,
        stage: Stage,
        name: str,
        params: Any,
        inputs: Inputs,
        *,
        section: Section | None = None,
        identity: dict[str, str] | None = None,
    ) -> PlannedUnit:
        """Return a unit with its key: a hash of everything that its output depends on.

        Args:
            section: in place of the configuration's.
            identity: in the key in place of inputs, or of unkeyed params, that say more than the unit depends on.
        """
        parts = {"stage": stage.name, "version": stage.version, "unit": name, "params": params_for_key(params)}
        parts |= {"section": section.for_key() if section else self._section_for_key(stage)}
        keys = {label: _keys(refs) for label, refs in inputs.items()}
        parts |= {"inputs": keys | (identity or {}), "seed": self.config.seed}
        if stage.gpu:
            parts["precision"] = self.config.runtime.precision
        return PlannedUnit(ArtifactRef(stage.name, name, content_key(parts)), params, inputs)

    def _section_for_key(self, stage: Stage) -> dict[str, Any]:
        """Return what the configuration's section adds to a key; worked out once, for a stage may have 10^6 units."""
        if stage.name not in self._sections:
            self._sections[stage.name] = stage.section_of(self.config).for_key()
        return self._sections[stage.name]

    def class_unit(
        self, stage: Stage, class_id: int, params: Any, inputs: Inputs, *, prefix: str = "", images: bool = True
    ) -> PlannedUnit:
        """Return the unit of a class; if its stage reads real images, its key holds those of the class alone."""
        inputs = {"index": self.index_ref, **inputs} if images else inputs
        identity = {"index": self.index.class_digest(class_id)} if images else {}
        return self.unit(stage, f"{prefix}class-{class_id:05d}", params, inputs, identity=identity)


def smallest_class(index: DatasetIndex, class_ids: Iterable[int]) -> int:
    """Return the least number of training images that one of the classes has."""
    return min(len(index.train.of_class(class_id)) for class_id in class_ids)


def params_for_key(params: Any) -> dict[str, Any]:
    """Return the plain params that belong to the key; those at their default are left out, as options are."""
    cls: type = type(params)
    given = {name: (getattr(params, name), default) for name, default in _keyed_fields(cls)}
    values = {name: value for name, (value, default) in given.items() if value != default}
    return {name: params_for_key(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()}


@functools.cache
def _keyed_fields(params: type) -> list[tuple[str, Any]]:
    return [(item.name, item.default) for item in dataclasses.fields(params) if item.metadata.get("keyed", True)]


def image_sets(ipc: int, recovered: Iterable[PlannedUnit], selected: Iterable[PlannedUnit]) -> dict[str, PlannedSet]:
    """Return each set of images by its name: ``distilled``, ``random-0``, ``nearest``, ``worth-20-0``, ...

    Args:
        ipc: recovered images per class, or tiles of such.
    """
    sets: dict[str, PlannedSet] = {}
    for unit in recovered:
        sets.setdefault("distilled", PlannedSet(ipc, None)).refs.append(unit.ref)
    for unit in selected:
        params = unit.params
        sets.setdefault(params.images, PlannedSet(params.ipc, params.draw)).refs.append(unit.ref)
    return sets


def _keys(refs: ArtifactRef | tuple[ArtifactRef, ...]) -> str | list[str]:
    return refs.key if isinstance(refs, ArtifactRef) else [ref.key for ref in refs]
