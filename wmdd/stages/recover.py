"""Stage "recover": a group of classes becomes images, optimised as one tensor batch."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import replace

import torch

from wmdd.config.recovery import RecoverConfig
from wmdd.data.batches import class_images, forget_decoded
from wmdd.data.geometry import Geometry
from wmdd.errors import WmddError
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass
from wmdd.method.objective import term_weights
from wmdd.method.recovery import Paused, Recovered, Target, recover_images
from wmdd.method.selection import by_loss, in_order_of_atoms
from wmdd.method.tiles import encode
from wmdd.models.teacher import Teacher
from wmdd.outputs import Failure, Note, Output, Progress, Snapshot
from wmdd.runtime import Runtime, free_memory, is_out_of_memory
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit, Yielded
from wmdd.stages.plans.recover import Params
from wmdd.stages.recovery_snapshot import Parts, RecoverySnapshot

NO_ROOM = "the images of one class do not fit into the device's memory; lower ipc or data.image_size"


def recover(section: RecoverConfig, units: list[Unit[Params]], seeds: SeedTree, runtime: Runtime) -> Iterator[Yielded]:
    """Optimise all units' classes: inputs ``teacher``, ``statistics``, ``barycenter``, and ``index`` for real starts.

    If the group does not fit into the device's memory, its halves are run one after the other.
    """
    teacher: Teacher = units[0].load("teacher")
    try:
        batches = _begun(section, units, teacher)
    except ValueError as exc:
        yield Note(f"the snapshot of {units[0].name} and its group is ignored ({exc}): they begin at their first step")
        batches = [(units, [])]
    number = 0
    while number < len(batches):
        batch, parts = batches[number]
        is_full = False
        try:
            if not all(unit.saved for unit in batch):
                for event in _recover(section, batch, parts, teacher, seeds, runtime, joint=len(batch) == len(units)):
                    yield _snapshot(batches) if isinstance(event, Paused) else event
        except RuntimeError as exc:
            if not is_out_of_memory(exc):
                raise
            if len(batch) == 1:
                raise torch.OutOfMemoryError(f"{NO_ROOM} ({exc})") from exc
            is_full = True
        if is_full:
            # After the handler, because until its end the error references every tensor of the failed step.
            del parts
            batches[number : number + 1] = [(batch[: len(batch) // 2], []), (batch[len(batch) // 2 :], [])]
            forget_decoded()
            free_memory()
        else:
            parts[:] = [part for part in parts if isinstance(part, Paused)]  # what is recovered is stored
            number += 1
    if any(parts for _, parts in batches):
        yield _snapshot(batches)  # for more steps


Batch = tuple[list[Unit[Params]], Parts]  # classes that are one tensor batch, and how far their images are


def _snapshot(batches: list[Batch]) -> Snapshot:
    layout = [[unit.name for unit in batch] for batch, _ in batches]
    return Snapshot(RecoverySnapshot(layout, [parts for _, parts in batches]).write(), optional=True)


def _begun(section: RecoverConfig, units: list[Unit[Params]], teacher: Teacher) -> list[Batch]:
    """Return how far the group is; raise ValueError if its snapshot cannot be used."""
    if units[0].resume is None:
        return [(units, [])]
    snapshot = RecoverySnapshot.read(units[0].resume, [unit.name for unit in units])
    barycenter: Barycenter = units[0].load("barycenter")
    sizes = [part.stop - part.start for part in _parts(_ipc(section, barycenter), units[0].params)]
    snapshot.check(section, _steps(section, units[0].params), sizes, teacher.image_size)
    remaining = iter(units)
    layout = [list(itertools.islice(remaining, len(names))) for names in snapshot.layout]
    return list(zip(layout, snapshot.batches, strict=True))


def _recover(
    section: RecoverConfig,
    units: list[Unit[Params]],
    parts: Parts,
    teacher: Teacher,
    seeds: SeedTree,
    runtime: Runtime,
    *,
    joint: bool,
) -> Iterator[Yielded | Paused]:
    """Optimise the classes of one tensor batch, and keep in `parts` how far they are."""
    targets, sources = [], []
    for unit in units:
        try:
            target, rows = _target(section, unit, teacher, seeds)
        except WmddError as exc:
            raise type(exc)(f"{unit.name}: {exc}") from exc
        targets.append(target)
        sources.append(rows)
    whole = yield from _optimise(section, units[0].params, targets, parts, teacher, runtime)
    for row, (unit, target) in enumerate(zip(units, targets, strict=True)):
        if row in whole.diverged:
            yield Failure(unit.name, whole.diverged[row])
            continue
        value = DistilledClass(
            class_id=unit.params.class_id,
            images=whole.images[row],
            mass=target.barycenter.mass.unflatten(0, (-1, section.tiles**2)).sum(dim=1),
            losses=whole.losses[row],
            terms=tuple(term_weights(section)),
            sources=sources[row],
            notes={} if joint else {"tensor_batch_classes": len(units)},
            class_name=target.statistics.class_name,
            tiles=section.tiles,
        )
        yield Output(unit.name, value)


def _optimise(
    section: RecoverConfig, params: Params, targets: list[Target], parts: Parts, teacher: Teacher, runtime: Runtime
) -> Generator[Progress | Paused, None, Recovered]:
    """Optimise the images part by part; return all, class by class. If a part of a class diverged, the class has."""
    slices = _parts(_ipc(section, targets[0].barycenter), params)
    recovered: list[Recovered] = []
    for number, atoms in enumerate(slices):
        begun = parts[number] if number < len(parts) else None
        if isinstance(begun, Recovered):
            recovered.append(begun)
            continue
        if begun:
            done, total = number * section.iterations + begun.step, len(slices) * section.iterations
            yield Progress(done, total, "goes on from a snapshot")
        partial = targets if len(slices) == 1 else [target.part(atoms, number) for target in targets]
        for event in recover_images(section, teacher, partial, runtime, steps=params.steps, begun=begun):
            if isinstance(event, Progress):
                yield replace(event, done=number * event.total + event.done, total=len(slices) * event.total)
                continue
            if isinstance(event, Recovered):
                recovered.append(event)
            if isinstance(event, Paused) or params.steps is None:
                parts[number : number + 1] = [event]
            if isinstance(event, Paused) and event.step < _steps(section, params):
                yield event
    losses = torch.stack([part.losses for part in recovered]).mean(dim=0)
    diverged = {row: reason for part in reversed(recovered) for row, reason in part.diverged.items()}
    return Recovered(torch.cat([part.images for part in recovered], dim=1), losses, diverged)


def _steps(section: RecoverConfig, params: Params) -> int:
    return section.iterations if params.steps is None else params.steps


def _ipc(section: RecoverConfig, barycenter: Barycenter) -> int:
    """Return the number of images of a class, which have an atom for each tile."""
    return len(barycenter.support) // section.tiles**2


def _parts(ipc: int, params: Params) -> list[slice]:
    """Cut the images of a class into parts that are optimised one after the other."""
    count = params.images_at_once or ipc
    return [slice(start, min(start + count, ipc)) for start in range(0, ipc, count)]


def _target(
    section: RecoverConfig, unit: Unit[Params], teacher: Teacher, seeds: SeedTree
) -> tuple[Target, tuple[int, ...]]:
    statistics: ClassStatistics = unit.load("statistics")
    barycenter: Barycenter = unit.load("barycenter")
    class_seeds = seeds.child("recover", unit.params.class_id)
    ipc = len(barycenter.support)
    if section.init == "noise":
        return Target(statistics, barycenter, class_seeds, None), (-1,) * ipc
    rows = barycenter.nearest
    if section.init == "random":
        rows = torch.from_numpy(class_seeds.child("start").numpy().permutation(len(statistics.features))[:ipc])
    elif section.init == "easiest":
        easiest = by_loss(teacher, statistics)[:ipc]
        rows = torch.from_numpy(in_order_of_atoms(easiest, statistics, barycenter))
    geometry = Geometry(teacher.image_size, teacher.crop_ratio, teacher.normalization)
    start = encode(class_images(unit.load("index"), unit.params.class_id, geometry, rows.numpy()), section.tiles)
    return Target(statistics, barycenter, class_seeds, start), tuple(rows.tolist())
