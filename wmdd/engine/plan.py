"""What a run consists of: every stage's units with their keys, worked out before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from wmdd.config.distill import DistillConfig
from wmdd.config.fidelity import WHOLE, Fidelity
from wmdd.config.protocol_hash import protocol_hash
from wmdd.config.sections import EvaluateConfig, Section
from wmdd.data.index import DatasetIndex
from wmdd.data.load_index import load_index
from wmdd.engine.preflight import check, check_weights
from wmdd.engine.task import Plan, StageTask
from wmdd.keys import content_key
from wmdd.models.weight_files import is_file, read_bytes
from wmdd.stages import STAGES
from wmdd.stages.base import Inputs, PlannedUnit
from wmdd.storage.folder import absolute_url
from wmdd.storage.store import ArtifactRef, ArtifactStore

TEACHER, BESIDE = "teacher", "teacher-"
IMAGES_PER_BATCH = 100  # fills a GPU; more classes in a task would leave fewer tasks than a cluster has GPUs


def make_plan(
    config: DistillConfig, store: ArtifactStore, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Plan:
    """Index the data (once per set), check that the run can work, and name every unit.

    Raises:
        ConfigError, DataError: one line, before anything runs.
    """
    # A store with a teacher may hold this run's, whose weights need not be fetched again.
    is_new = not store.folder.entries("pretrain")
    index, ref = load_index(
        config, store, on_progress, lambda num_classes: check_weights(config, num_classes, fetch=is_new)
    )
    plan = plan_from(config, index, ref)
    if absent := store.absent(ref for stage in plan.tasks for ref in plan.refs(stage)):
        check(config, index)
        if absent & set(plan.refs("pretrain")):
            check_weights(config, len(index.class_names))
        store.check_writable()
    return plan


def plan_from(
    config: DistillConfig,
    index: DatasetIndex,
    ref: ArtifactRef,
    levels: Sequence[Fidelity] = (WHOLE,),
    weights: str | None = None,
) -> Plan:
    """Name every unit of a run over an indexed set.

    Args:
        weights: digest of the teacher's file, where it is known already: the file may be gone.
        levels: the run is that of the last one; its recovery goes on from the images of those before, which were run.
    """
    config = levels[-1].apply(config)
    source = config.pretrain.weights
    digest = weights or (_file_digest(source) if source and is_file(source) else None)
    return Plan(config, index, ref, _Planner(config, index, ref, levels, digest).plan(), digest)


class _Planner:
    """Names the units of one run, from the images to the scores."""

    def __init__(
        self,
        config: DistillConfig,
        index: DatasetIndex,
        index_ref: ArtifactRef,
        levels: Sequence[Fidelity],
        weights: str | None,
    ) -> None:
        self.weights = weights
        self.config, self.index, self.index_ref, self.levels = config, index, index_ref, levels
        self.geometry = config.data.geometry()
        self.train, self.val = index.digest("train"), index.digest("val")
        self.classes = [f"class-{class_id:05d}" for class_id in range(len(index.class_names))]

    def plan(self) -> dict[str, tuple[StageTask, ...]]:
        teacher = self._pretrain(TEACHER, self.config.pretrain.model, self.config.pretrain.weights)
        groups = self._groups(self.levels[-1])
        ids = [class_id for group in groups for class_id in group]
        stages, made = self._made(teacher.ref, groups)
        sets = {"distilled": [unit.ref for unit in made]} if made else {}
        for draw in range(self.config.evaluate.seeds if self.config.evaluate.random_real or not made else 0):
            drawn = [self._select(draw, class_id) for class_id in ids]
            stages["select"].append(drawn)
            sets[f"random-{draw}"] = [unit.ref for unit in drawn]
        soft = self.config.evaluate.labels == "soft"
        others = [self._beside(name) for name in self.config.relabel.teachers] if soft else []
        teachers = [teacher.ref, *(unit.ref for unit in others)]
        blocks = {name: self._relabel(name, refs, teachers) if soft else [] for name, refs in sets.items()}
        scores = [
            unit for name in sets for unit in self._evaluate(name, sets[name], [b.ref for b in blocks[name]], ids)
        ]
        # A network that labels may be a student, too, who is trained on all data in the same way.
        others += [self._pretrain(f"full-{name}", name, None) for name in self._others()]
        stages["pretrain"] = [[teacher], *([unit] for unit in {unit.ref: unit for unit in others}.values())]
        stages["relabel"] = [[unit] for units in blocks.values() for unit in units]
        stages["evaluate"] = [[unit] for unit in scores]
        return {stage: self._tasks(stage, stages.get(stage, [])) for stage in STAGES}

    def _made(
        self, teacher: ArtifactRef, groups: list[range]
    ) -> tuple[dict[str, list[list[PlannedUnit]]], list[PlannedUnit]]:
        """Give the tasks that make the method's images, and the images: none if they are drawn at random."""
        if self.config.method == "random":
            return {"select": []}, []
        statistics = [self._statistics(class_id, teacher) for class_id in range(len(self.classes))]
        stages = {"statistics": [[unit] for unit in statistics], "select": []}
        if self.config.method == "herding":
            made = [self._herd(class_id, statistics[class_id].ref) for group in groups for class_id in group]
            return stages | {"select": [made]}, made
        atoms = [self._barycenter(class_id, unit.ref) for class_id, unit in enumerate(statistics)]
        level = len(self.levels) - 1
        recovered = [
            [self._recover(c, teacher, statistics[c].ref, atoms[c].ref, level) for c in group] for group in groups
        ]
        stages |= {"barycenter": [[unit] for unit in atoms], "recover": recovered}
        return stages, [unit for group in recovered for unit in group]

    def _groups(self, level: Fidelity) -> list[range]:
        """Cut the classes into groups that share a tensor batch, and choose those of a level."""
        # Images that are to match the statistics of all classes together need many classes beside each other.
        each = 1 if self.config.recover.bn_target == "global" else self.config.barycenter.ipc
        size = self.config.recover.classes_per_batch or max(1, IMAGES_PER_BATCH // each)
        count = len(self.classes)
        groups = [range(start, min(start + size, count)) for start in range(0, count, size)]
        return [groups[place] for place in level.groups(len(groups))]

    def _others(self) -> list[str]:
        if not self.config.evaluate.full_data:
            return []
        return [name for name in dict.fromkeys(self.config.evaluate.students) if name != self.config.pretrain.model]

    def _unit(
        self, stage: str, name: str, params: dict[str, Any], inputs: Inputs, identity: dict[str, str] | None = None
    ) -> PlannedUnit:
        """Name a unit; `identity` stands for inputs, or params, that say more than the unit depends on."""
        settings = STAGES[stage]
        section = {} if stage == "select" else self._section(stage, params).for_key()
        keys = {label: _keys(refs) for label, refs in inputs.items()} | (identity or {})
        own = {label: value for label, value in params.items() if label not in (identity or {})}
        parts = {"stage": stage, "version": settings.version, "unit": name, "section": section, "params": own}
        parts |= {"inputs": keys, "seed": self.config.seed}
        if stage not in ("barycenter", "select"):
            parts["precision"] = self.config.runtime.precision
        return PlannedUnit(ArtifactRef(stage, name, content_key(parts)), params, inputs)

    def _section(self, stage: str, params: dict[str, Any]) -> Section:
        section: Section = getattr(self.config, STAGES[stage].section)
        return section.of(params["student"]) if isinstance(section, EvaluateConfig) else section

    def _tasks(self, stage: str, groups: list[list[PlannedUnit]]) -> tuple[StageTask, ...]:
        tasks = []
        for group in groups:
            name = group[0].ref.unit + (f"..{group[-1].ref.unit}" if len(group) > 1 else "")
            section = self._section(stage, group[0].params).model_dump(mode="json")
            tasks.append(StageTask(stage, name, section, self.config.seed, tuple(group)))
        return tuple(tasks)

    def _pretrain(self, name: str, model: str, weights: str | None) -> PlannedUnit:
        params: dict[str, Any] = {"model": model, "geometry": self.geometry, "weights": weights}
        own = name == TEACHER or name.startswith(BESIDE)
        params["stem"] = self.config.pretrain.stem if own else self.config.evaluate.stem
        identity = {"index": f"{self.train}-{self.val}"}
        if weights and is_file(weights):
            params["weights"] = absolute_url(weights)
            identity["weights"] = str(self.weights)
        return self._unit("pretrain", name, params, {"index": self.index_ref}, identity)

    def _beside(self, name: str) -> PlannedUnit:
        """Plan a network that labels beside the teacher: published where the teacher is, else trained as it is."""
        weights = self.config.pretrain.weights
        published = "default" if weights and not is_file(weights) else None
        shared = published is None and self.config.pretrain.stem == self.config.evaluate.stem
        return self._pretrain(f"full-{name}" if shared else f"{BESIDE}{name}", name, published)

    def _class(self, class_id: int) -> dict[str, str]:
        return {"index": self.index.class_digest(class_id)}

    def _statistics(self, class_id: int, teacher: ArtifactRef) -> PlannedUnit:
        inputs: Inputs = {"teacher": teacher, "index": self.index_ref}
        return self._unit("statistics", self.classes[class_id], {"class_id": class_id}, inputs, self._class(class_id))

    def _barycenter(self, class_id: int, statistics: ArtifactRef) -> PlannedUnit:
        return self._unit("barycenter", self.classes[class_id], {"class_id": class_id}, {"statistics": statistics})

    def _recover(
        self, class_id: int, teacher: ArtifactRef, statistics: ArtifactRef, barycenter: ArtifactRef, level: int
    ) -> PlannedUnit:
        inputs: Inputs = {
            "teacher": teacher,
            "statistics": statistics,
            "barycenter": barycenter,
            "index": self.index_ref,
        }
        steps = self.levels[level].steps(self.config)
        params: dict[str, Any] = {"class_id": class_id}
        params |= {"until": steps} if steps < self.config.recover.iterations else {}
        if self.config.recover.bn_target == "global":
            group = next(group for group in self._groups(self.levels[level]) if class_id in group)
            params["images_at_once"] = max(1, IMAGES_PER_BATCH // len(group))
        unit = self._unit("recover", self.classes[class_id], params, inputs, self._class(class_id))
        for earlier in reversed(range(level)):
            first = self.levels[earlier].steps(self.config)
            if first < steps and any(class_id in group for group in self._groups(self.levels[earlier])):
                before = self._recover(class_id, teacher, statistics, barycenter, earlier).ref
                # Not in the key: the images are the same, from wherever the optimisation goes on.
                return replace(unit, params=params | {"first": first}, inputs=inputs | {"before": before})
        return unit

    def _select(self, draw: int, class_id: int) -> PlannedUnit:
        params = {"class_id": class_id, "ipc": self.config.barycenter.ipc, "draw": draw, "geometry": self.geometry}
        name = f"random-{draw}-{self.classes[class_id]}"
        return self._unit("select", name, params, {"index": self.index_ref}, self._class(class_id))

    def _herd(self, class_id: int, statistics: ArtifactRef) -> PlannedUnit:
        ipc = self.config.barycenter.ipc
        params = {"class_id": class_id, "ipc": ipc, "rule": "herding", "geometry": self.geometry}
        inputs: Inputs = {"index": self.index_ref, "statistics": statistics}
        return self._unit("select", f"herding-{self.classes[class_id]}", params, inputs, self._class(class_id))

    def _relabel(self, images: str, classes: list[ArtifactRef], teachers: list[ArtifactRef]) -> list[PlannedUnit]:
        section = self.config.relabel
        units = []
        for first in range(0, section.epochs, section.epochs_per_block):
            epochs = min(section.epochs_per_block, section.epochs - first)
            params = {"images": images, "first_epoch": first, "epochs": epochs}
            inputs: Inputs = {"teacher": teachers[0], "classes": tuple(classes)}
            inputs |= {"others": tuple(teachers[1:])} if len(teachers) > 1 else {}
            units.append(self._unit("relabel", f"{images}-epochs-{first:04d}", params, inputs))
        return units

    def _evaluate(
        self, images: str, classes: list[ArtifactRef], labels: list[ArtifactRef], ids: list[int]
    ) -> list[PlannedUnit]:
        seeds = range(self.config.evaluate.seeds)
        units = []
        for student in dict.fromkeys(self.config.evaluate.students):
            # One student for each random draw; the distilled set is trained on with every seed.
            for seed in seeds if images == "distilled" else [int(images.rpartition("-")[2])]:
                params = {"student": student, "seed": seed, "images": images, "geometry": self.geometry}
                params |= {
                    "protocol": self.config.evaluate.protocol,
                    "protocol_hash": protocol_hash(self.config, student),
                }
                params |= {"class_ids": ids} if len(ids) < len(self.classes) else {}
                inputs: Inputs = {"classes": tuple(classes), "index": self.index_ref}
                if self.config.evaluate.labels == "hard":
                    params["views"] = self.config.relabel.hard().model_dump(mode="json")
                else:
                    inputs["labels"] = tuple(labels)
                name = f"{images}-{student.replace('/', '_')}-seed-{seed}"
                units.append(self._unit("evaluate", name, params, inputs, {"index": self.val}))
        return units


def _keys(refs: ArtifactRef | tuple[ArtifactRef, ...]) -> str | list[str]:
    return refs.key if isinstance(refs, ArtifactRef) else [ref.key for ref in refs]


def _file_digest(url: str) -> str:
    return hashlib.blake2b(read_bytes(url), digest_size=16).hexdigest()
