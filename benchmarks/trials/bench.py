"""Computes what the ideas need, makes the images of an idea, and scores students on them."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.trials.loop import Labellers, Loop, Real, run_network
from wmdd.commands.distill import distill
from wmdd.config.distill import DistillConfig, override
from wmdd.config.machines import RuntimeConfig
from wmdd.data.batches import class_images
from wmdd.data.geometry import Geometry
from wmdd.data.index import DatasetIndex
from wmdd.engine.plan import plan_from
from wmdd.engine.run_start import read_start
from wmdd.engine.task import Plan
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass, ImageSet
from wmdd.method.batch_sizes import with_equal_steps
from wmdd.models.teacher import Teacher
from wmdd.outputs import Output, Snapshot
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.plans import evaluate, pretrain, relabel
from wmdd.stages.plans.pretrain import TEACHER
from wmdd.storage.artifact import unpack
from wmdd.storage.store import ArtifactStore

SNAPSHOTS = (3, 6)  # epochs of the teacher's training
WEAK_EPOCHS, WEAK = 5, 3  # networks: the first of them takes no part in any idea


class Bench:
    """Real images, networks, and the validation images that students are scored on.

    Args:
        config: the recipe, with the number of images per class.
        work: folder of the runs and of their store.
    """

    def __init__(self, config: DistillConfig, work: Path) -> None:
        plan, store = _computed(config, work, "barycenter")
        self.config, self.index = plan.config, plan.index
        weak = [_computed(_weak(config, seed), work, "pretrain") for seed in range(1, WEAK + 1)]
        self._others = [_teacher(other, kept) for other, kept in weak]
        self._teacher = _teacher(plan, store)
        self.geometry = Geometry(config.data.image_size, config.data.crop_ratio, self._teacher.normalization)
        classes = range(len(self.index.class_names))
        self.real = Real(
            [class_images(self.index, number, self.geometry) for number in classes],
            self._teacher,
            self._others[1:],
            [store.load(ref, ClassStatistics) for ref in plan.refs("statistics")],
            [store.load(ref, Barycenter) for ref in plan.refs("barycenter")],
            lambda: self.snapshots,
        )
        self._runtime = Runtime.create(RuntimeConfig(device="cpu"))

    def images(self, idea: type[Loop]) -> tuple[list[DistilledClass], float]:
        """Return the images of an idea, and the seconds that the loop took."""
        seeds = SeedTree(self.config.seed).child("trial")
        begun = time.perf_counter()
        loop = idea(self.real, self.config.recover, seeds)
        stored = loop.run().unflatten(0, (len(self.index.class_names), -1))
        seconds = time.perf_counter() - begun
        tiles, count = idea.tiles or self.config.recover.tiles, self.config.ipc
        masses = torch.full((count,), 1 / count)
        return [DistilledClass(number, part, masses, tiles=tiles) for number, part in enumerate(stored)], seconds

    def top1(self, classes: list[DistilledClass], idea: type[Loop], students: int) -> list[float]:
        """Return the top-1 of students after their last epoch, in %."""
        first, *more = self._labellers(idea.labellers)
        shown = len(ImageSet.of(classes))
        section = with_equal_steps(self.config.relabel, len(classes) * self.config.ipc, shown)
        inputs = {"teacher": first, "classes": classes, "index": self.index}
        if more:
            section = section.model_copy(update={"teachers": ("others",)})
            inputs["others"] = more
        params = relabel.Params("distilled", 0, section.epochs)
        inputs["labels"] = self._outputs("relabel", section, params, inputs)
        name = self.config.evaluate.students[0]
        final = override(self.config, {"evaluate.val_every": section.epochs}).evaluate.of(name)
        scores = []
        for seed in range(students):
            trained = evaluate.Params(name, seed, "distilled", self.geometry, final.protocol, "trial")
            scores += [result.top1_last for result in self._outputs("evaluate", final, trained, inputs)]
        return [round(100 * score, 2) for score in scores]

    def _labellers(self, names: Labellers) -> list[Teacher]:
        """Return the networks that label, the first of them as the stage's teacher."""
        match names:
            case "weak":
                return self._others[1:2]
            case "teacher and others":
                return [self._teacher, *self._others[1:]]
            case "teacher and snapshots":
                return [self._teacher, *self.snapshots]
        return [self._teacher]

    @functools.cached_property
    def snapshots(self) -> list[Teacher]:
        """The networks of a training like the teacher's, after some of its epochs.

        On another number of threads than the teacher's, its rounding differs.
        """
        params = pretrain.Params(self._teacher.model, self._teacher.stem, self.geometry)
        unit = Unit(TEACHER, params, {"index": self.index}.__getitem__)
        training = STAGES["pretrain"].run(self.config.pretrain, [unit], SeedTree(self.config.seed), self._runtime)
        networks = []
        for snapshot in (unpack(event.data) for event in training if isinstance(event, Snapshot)):
            tensors, position = snapshot
            if position["epoch"] in SNAPSHOTS:
                networks.append(replace(self._teacher, weights=_network_of(tensors), curve=tuple(position["curve"])))
            if position["epoch"] == SNAPSHOTS[-1]:
                break
        return networks

    def _outputs(self, stage: str, section: Any, params: Any, inputs: dict[str, Any]) -> list[Any]:
        unit = Unit("trial", params, inputs.__getitem__)
        events = STAGES[stage].run(section, [unit], SeedTree(self.config.seed), self._runtime)
        return [event.value for event in events if isinstance(event, Output)]

    @torch.no_grad()
    def unseen_loss(self, classes: list[DistilledClass]) -> float:
        """Return the cross-entropy of a weak network that no idea uses, on the images as networks see them."""
        shown, network = ImageSet.of(classes), self._others[0]
        logits: Tensor = run_network(network, network.pixels.normalize(shown.images)).logits
        return round(float(F.cross_entropy(logits, shown.labels)), 4)


def _network_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights among the tensors of a training's snapshot."""
    prefix = "network."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _computed(config: DistillConfig, work: Path, until: str) -> tuple[Plan, ArtifactStore]:
    """Compute what a run needs up to a stage, unless the store has it; return its plan."""
    url = str(work / f"run-{until}-{config.seed}-ipc-{config.ipc}-epochs-{config.relabel.epochs}")
    store = str(work / "store")
    distill(config, run=url, store=store, executor="local", until=until)
    start, artifacts = read_start(url), ArtifactStore(store)
    return plan_from(start.config, artifacts.load(start.index, DatasetIndex), start.index), artifacts


def _teacher(plan: Plan, store: ArtifactStore) -> Teacher:
    return next(store.load(ref, Teacher) for ref in plan.refs("pretrain") if ref.unit == TEACHER)


def _weak(config: DistillConfig, seed: int) -> DistillConfig:
    return override(config, {"pretrain.epochs": WEAK_EPOCHS, "seed": config.seed + seed})
