"""Stage "recover": a group of classes becomes images, optimised as one tensor batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from wmdd.config import RecoverConfig
from wmdd.data.loading import Geometry, class_images
from wmdd.events import Failure, Output, Progress
from wmdd.runtime import Runtime, free_memory, is_out_of_memory
from wmdd.seeding import SeedTree
from wmdd.stages.base import Stage, Unit, Yielded
from wmdd.synthesis import Recovered, Target, recover_images, term_weights
from wmdd.types import Barycenter, ClassStatistics, DistilledClass, Teacher


def recover(section: RecoverConfig, units: list[Unit], seeds: SeedTree, runtime: Runtime) -> Iterator[Yielded]:
    """Optimise all units' classes: inputs ``teacher``, ``statistics``, ``barycenter``, and ``index`` for real starts.

    All units of a task may have the params ``until`` (stop after so many steps) and ``first`` (go on after so many,
    from the input ``before``).

    When the group does not fit into the device's memory, its halves are run one after the other.
    """
    teacher: Teacher = units[0].load("teacher")
    pending = [units]
    while pending:
        part = pending.pop(0)
        try:
            yield from _recover(section, part, teacher, seeds, runtime, joint=len(part) == len(units))
        except RuntimeError as exc:
            if not is_out_of_memory(exc) or len(part) == 1:
                raise
            free_memory()
            pending = [part[: len(part) // 2], part[len(part) // 2 :], *pending]


def _recover(
    section: RecoverConfig, units: list[Unit], teacher: Teacher, seeds: SeedTree, runtime: Runtime, *, joint: bool
) -> Iterator[Yielded]:
    targets, sources = [], []
    for unit in units:
        target, rows = _target(section, unit, teacher, seeds)
        targets.append(target)
        sources.append(rows)
    first, until = units[0].params.get("first", 0), units[0].params.get("until")
    for news in recover_images(section, teacher, targets, runtime, first=first, until=until):
        if isinstance(news, Progress):
            yield news
            continue
        assert isinstance(news, Recovered)
        for place, unit in enumerate(units):
            if place in news.diverged:
                yield Failure(unit.name, news.diverged[place])
                continue
            value = DistilledClass(
                class_id=unit.params["class_id"],
                images=news.images[place],
                weights=targets[place].barycenter.weights,
                losses=news.losses[place],
                terms=tuple(term_weights(section)),
                sources=sources[place],
                notes={} if joint else {"tensor_batch_classes": len(units)},
                state=news.state[place],
                class_name=targets[place].statistics.class_name,
            )
            yield Output(unit.name, value)


def _target(section: RecoverConfig, unit: Unit, teacher: Teacher, seeds: SeedTree) -> tuple[Target, tuple[int, ...]]:
    statistics: ClassStatistics = unit.load("statistics")
    barycenter: Barycenter = unit.load("barycenter")
    own = seeds.child("recover", unit.params["class_id"])
    ipc = len(barycenter.support)
    if unit.params.get("first"):
        before: DistilledClass = unit.load("before")
        return Target(statistics, barycenter, own, None, before), before.sources
    if section.init == "noise":
        return Target(statistics, barycenter, own, None), (-1,) * ipc
    rows = barycenter.nearest
    if section.init == "random":
        rows = torch.from_numpy(own.child("start").numpy().permutation(len(statistics.features))[:ipc])
    geometry = Geometry(teacher.image_size, teacher.crop_ratio, teacher.normalization)
    start = class_images(unit.load("index"), unit.params["class_id"], geometry, rows.numpy())
    return Target(statistics, barycenter, own, start), tuple(rows.tolist())


RECOVER = Stage("recover", 1, "recover", DistilledClass, recover, joint=True)
