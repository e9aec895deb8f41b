"""Stage "recover": a group of classes becomes images, optimised as one tensor batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from wmdd.data.loading import Geometry, class_images, forget_decoded
from wmdd.events import Failure, Output, Progress
from wmdd.runtime import Runtime, free_memory, is_out_of_memory
from wmdd.sections import RecoverConfig
from wmdd.seeding import SeedTree
from wmdd.stages.base import Stage, Unit, Yielded
from wmdd.synthesis import Recovered, Target, recover_images, term_weights
from wmdd.types import Barycenter, ClassStatistics, DistilledClass, Teacher

NO_ROOM = "the images of one class do not fit into the device's memory; lower barycenter.ipc or data.image_size"


def recover(section: RecoverConfig, units: list[Unit], seeds: SeedTree, runtime: Runtime) -> Iterator[Yielded]:
    """Optimise all units' classes: inputs ``teacher``, ``statistics``, ``barycenter``, and ``index`` for real starts.

    All units of a task may have the params ``until`` (stop after so many steps), ``first`` (go on after so many, from
    the input ``before``) and ``images_at_once`` (of each class; the others are optimised after them).

    When the group does not fit into the device's memory, its halves are run one after the other.
    """
    teacher: Teacher = units[0].load("teacher")
    pending = [units]
    while pending:
        part, is_full = pending.pop(0), False
        try:
            yield from _recover(section, part, teacher, seeds, runtime, joint=len(part) == len(units))
        except RuntimeError as exc:
            if not is_out_of_memory(exc):
                raise
            if len(part) == 1:
                raise torch.OutOfMemoryError(f"{NO_ROOM} ({exc})") from exc
            is_full = True
        if is_full:
            # After the handler, because until its end the error references every tensor of the failed step.
            forget_decoded()
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
    whole: list[Recovered] = []
    parts = _parts(targets, units[0].params.get("images_at_once"))
    first, until = units[0].params.get("first", 0), units[0].params.get("until")
    for number, part in enumerate(parts):
        for news in recover_images(section, teacher, part, runtime, first=first, until=until):
            if isinstance(news, Progress):
                yield replace(news, done=number * news.total + news.done, total=len(parts) * news.total)
            else:
                whole.append(news)
    found = _joined(whole)
    for place, unit in enumerate(units):
        if place in found.diverged:
            yield Failure(unit.name, found.diverged[place])
        else:
            value = DistilledClass(
                class_id=unit.params["class_id"],
                images=found.images[place],
                weights=targets[place].barycenter.weights,
                losses=found.losses[place],
                terms=tuple(term_weights(section)),
                sources=sources[place],
                notes={} if joint else {"tensor_batch_classes": len(units)},
                state=found.state[place],
                class_name=targets[place].statistics.class_name,
            )
            yield Output(unit.name, value)


def _parts(targets: list[Target], count: int | None) -> list[list[Target]]:
    """Cut the images of every class into parts that are optimised one after the other."""
    ipc = len(targets[0].barycenter.support)
    if count is None or count >= ipc:
        return [targets]
    places = [slice(start, start + count) for start in range(0, ipc, count)]
    return [[target.part(place, number) for target in targets] for number, place in enumerate(places)]


def _joined(parts: list[Recovered]) -> Recovered:
    """Put the images of the parts together, class by class; a class of which a part diverged has diverged."""
    if len(parts) == 1:
        return parts[0]
    states = [
        {name: torch.cat([own[name] for own in of_class]) for name in of_class[0]}
        for of_class in zip(*(part.state for part in parts), strict=True)
    ]
    diverged = {place: told for part in reversed(parts) for place, told in part.diverged.items()}
    losses = torch.stack([part.losses for part in parts]).mean(dim=0)
    return Recovered(torch.cat([part.images for part in parts], dim=1), losses, diverged, states)


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
