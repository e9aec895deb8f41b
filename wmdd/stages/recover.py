"""Stage "recover": a group of classes becomes images, optimised as one tensor batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from wmdd.config.sections import RecoverConfig
from wmdd.data.batches import Geometry, class_images, forget_decoded
from wmdd.errors import WmddError
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass
from wmdd.method.objective import term_weights
from wmdd.method.recovery import Paused, Recovered, Target, record_every, recover_images
from wmdd.models.teacher import Teacher
from wmdd.outputs import Failure, Note, Output, Progress, Snapshot
from wmdd.runtime import Runtime, free_memory, is_out_of_memory
from wmdd.seeding import SeedTree
from wmdd.stages.base import Groups, Inputs, PlannedUnit, Stage, Unit, Yielded
from wmdd.stages.interim import Interim
from wmdd.stages.planning import IMAGES_PER_BATCH, UNKEYED, Planner

NO_ROOM = "the images of one class do not fit into the device's memory; lower barycenter.ipc or data.image_size"


@dataclass(frozen=True)
class Params:
    """Of one class; but for the class, those of a task are equal.

    Args:
        until: number of steps to stop after, if not all are run.
        images_at_once: number of images that are optimised together, if not all are.
        first: number of steps that the input ``before`` is the state after.
    """

    class_id: int
    until: int | None = None
    images_at_once: int | None = None
    first: int = field(default=0, metadata=UNKEYED)  # the images are the same, wherever the optimisation goes on


def plan(planner: Planner) -> Groups:
    """Plan the classes whose images are optimised, in groups that share a tensor batch."""
    if planner.config.method in ("random", "herding"):
        return []
    level = len(planner.levels) - 1
    return [[_unit(planner, class_id, level) for class_id in group] for group in planner.groups()]


def _unit(planner: Planner, class_id: int, level: int) -> PlannedUnit:
    steps, section = planner.levels[level].steps(planner.config), planner.config.recover
    names = ("statistics", "barycenter")
    inputs: Inputs = {"teacher": planner.teacher, **{name: planner.units(name)[class_id].ref for name in names}}
    params = Params(class_id, until=steps if steps < section.iterations else None)
    if section.bn_target == "global":
        group = next(group for group in planner.groups(level) if class_id in group)
        params = replace(params, images_at_once=max(1, IMAGES_PER_BATCH // len(group)))
    unit = planner.class_unit(RECOVER, class_id, params, inputs)
    for earlier in reversed(range(level)):
        first = planner.levels[earlier].steps(planner.config)
        if first < steps and any(class_id in group for group in planner.groups(earlier)):
            before = _unit(planner, class_id, earlier).ref
            return replace(unit, params=replace(params, first=first), inputs=unit.inputs | {"before": before})
    return unit


def recover(section: RecoverConfig, units: list[Unit[Params]], seeds: SeedTree, runtime: Runtime) -> Iterator[Yielded]:
    """Optimise all units' classes: inputs ``teacher``, ``statistics``, ``barycenter``, and ``index`` for real starts.

    When the group does not fit into the device's memory, its halves are run one after the other.
    """
    teacher: Teacher = units[0].load("teacher")
    layout, place, interim = [units], 0, None
    try:
        interim = _interim(section, units, teacher)
    except ValueError as exc:
        yield Note(f"the snapshot of {units[0].name} and its group is ignored ({exc}): they begin at their first step")
    if interim is not None:
        rest = iter(units)
        layout = [list(itertools.islice(rest, len(names))) for names in interim.layout]
    while place < len(layout):
        part, is_full = layout[place], False
        if all(unit.saved for unit in part):
            place += 1
            continue
        try:
            begun = interim if interim is not None and interim.place == place else None
            for news in _recover(section, part, teacher, seeds, runtime, joint=len(part) == len(units), begun=begun):
                if isinstance(news, Interim):
                    names = [[unit.name for unit in batch] for batch in layout]
                    yield Snapshot(replace(news, layout=names, place=place).write(), optional=True)
                else:
                    yield news
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
            layout[place : place + 1] = [part[: len(part) // 2], part[len(part) // 2 :]]
            interim = None
        else:
            place += 1


def _interim(section: RecoverConfig, units: list[Unit[Params]], teacher: Teacher) -> Interim | None:
    """Return how far the group was, unless its images go on from a later step anyway.

    Raises:
        ValueError: if its snapshot cannot be used.
    """
    if units[0].resume is None:
        return None
    interim = Interim.read(units[0].resume, [unit.name for unit in units])
    barycenter: Barycenter = units[0].load("barycenter")
    ipc, step, params = len(barycenter.support), interim.running.step, units[0].params
    interim.check(
        records=len(range(0, step, record_every(section.iterations))),
        terms=len(term_weights(section)),
        images=ipc,
        size=teacher.image_size,
        at_once=min(ipc, params.images_at_once or ipc),
    )
    if step >= (section.iterations if params.until is None else params.until):
        raise ValueError("it is of a longer optimisation")
    return interim if step > params.first else None


def _recover(
    section: RecoverConfig,
    units: list[Unit[Params]],
    teacher: Teacher,
    seeds: SeedTree,
    runtime: Runtime,
    *,
    joint: bool,
    begun: Interim | None = None,
) -> Iterator[Yielded | Interim]:
    targets, sources = [], []
    for unit in units:
        try:
            target, rows = _target(section, unit, teacher, seeds)
        except WmddError as exc:
            raise type(exc)(f"{unit.name}: {exc}") from exc
        targets.append(target)
        sources.append(rows)
    whole = list(begun.finished) if begun else []
    parts = _parts(targets, units[0].params.images_at_once)
    until = units[0].params.until
    for number, part in list(enumerate(parts))[len(whole) :]:
        paused = begun.running if begun and number == len(begun.finished) else None
        first = paused.step if paused else units[0].params.first
        own, diverged = (paused.resume(part), paused.diverged) if paused else (part, {})
        if paused:
            done, total = number * section.iterations + first, len(parts) * section.iterations
            yield Progress(done, total, "goes on from a snapshot")
        for news in recover_images(section, teacher, own, runtime, first=first, until=until, diverged=diverged):
            if isinstance(news, Progress):
                yield replace(news, done=number * news.total + news.done, total=len(parts) * news.total)
            elif isinstance(news, Paused):
                yield Interim([], 0, news, list(whole))
            else:
                whole.append(news)
    found = _joined(whole)
    for place, unit in enumerate(units):
        if place in found.diverged:
            yield Failure(unit.name, found.diverged[place])
        else:
            value = DistilledClass(
                class_id=unit.params.class_id,
                images=found.images[place],
                mass=targets[place].barycenter.mass,
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


def _target(
    section: RecoverConfig, unit: Unit[Params], teacher: Teacher, seeds: SeedTree
) -> tuple[Target, tuple[int, ...]]:
    statistics: ClassStatistics = unit.load("statistics")
    barycenter: Barycenter = unit.load("barycenter")
    own = seeds.child("recover", unit.params.class_id)
    ipc = len(barycenter.support)
    if unit.params.first:
        before: DistilledClass = unit.load("before")
        return Target(statistics, barycenter, own, None, before), before.sources
    if section.init == "noise":
        return Target(statistics, barycenter, own, None), (-1,) * ipc
    rows = barycenter.nearest
    if section.init == "random":
        rows = torch.from_numpy(own.child("start").numpy().permutation(len(statistics.features))[:ipc])
    geometry = Geometry(teacher.image_size, teacher.crop_ratio, teacher.normalization)
    start = class_images(unit.load("index"), unit.params.class_id, geometry, rows.numpy())
    return Target(statistics, barycenter, own, start), tuple(rows.tolist())


RECOVER = Stage("recover", 1, "recover", DistilledClass, Params, plan, recover, joint=True, snapshots=True)
