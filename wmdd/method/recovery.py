"""Optimise the images of some classes against their barycenters and batch-norm statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wmdd.config.sections import RecoverConfig
from wmdd.data.views import Views, apply_views, draw_resized_crops, view_matrices
from wmdd.errors import DivergedError
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass
from wmdd.method.losses import batch_norm_loss, cross_entropy_loss, feature_loss, l2_loss, total_variation_loss
from wmdd.models.probes import Probe
from wmdd.models.teacher import Teacher
from wmdd.outputs import Progress, Pulse, SnapshotClock
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree

RECORDS = 50


def term_weights(section: RecoverConfig) -> dict[str, float]:
    """Name the terms of the loss, with their weights; priors that weigh nothing are no terms."""
    weights = {"feature": section.feature_weight, "batch_norm": section.bn_weight, "cross_entropy": section.ce_weight}
    priors = {"total_variation": section.tv_weight, "l2": section.l2_weight}
    return weights | {name: weight for name, weight in priors.items() if weight}


def record_every(steps: int) -> int:
    """Return the number of steps between two records of the losses."""
    return max(1, math.ceil(steps / RECORDS))


@dataclass(frozen=True, eq=False)
class Before:
    """Losses (records, terms) and state of one class in an optimisation that was cut short."""

    losses: Tensor
    state: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Target:
    """What the images of one class are to match, and where they start.

    Args:
        start: (ipc, 3, h, w) uint8 real images, or None for noise.
        before: losses and state of an optimisation that was cut short, to go on from.
    """

    statistics: ClassStatistics
    barycenter: Barycenter
    seeds: SeedTree
    start: Tensor | None
    before: DistilledClass | Before | None = None

    def part(self, places: slice, number: int) -> Target:
        """Give some of its images as a target of their own, with seeds of their own."""
        atoms, before = self.barycenter, self.before
        weights = atoms.weights[places] / atoms.weights[places].sum()
        return Target(
            self.statistics,
            replace(atoms, support=atoms.support[places], weights=weights, nearest=atoms.nearest[places]),
            self.seeds.child("part", number),
            None if self.start is None else self.start[places],
            before and replace(before, state={name: tensor[places] for name, tensor in before.state.items()}),
        )


@dataclass(frozen=True, eq=False)
class Paused:
    """Where an optimisation can go on, bit for bit.

    Args:
        step: steps that are done.
        losses: (classes, records so far, terms) float32.
        diverged, state: as for `Recovered`.
    """

    step: int
    losses: Tensor
    diverged: dict[int, str]
    state: list[dict[str, Tensor]]

    def resume(self, targets: list[Target]) -> list[Target]:
        """Return the targets with what is behind them."""
        return [
            replace(target, before=Before(losses, state))
            for target, losses, state in zip(targets, self.losses, self.state, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Recovered:
    """Images (classes, ipc, 3, h, w) uint8 and their loss terms (classes, records, terms) float32.

    Args:
        diverged: the targets, by place, whose images are worth nothing, with what was seen.
        state: of each class, to go on from; empty when there is nothing left to do.
    """

    images: Tensor
    losses: Tensor
    diverged: dict[int, str]
    state: list[dict[str, Tensor]]


def recover_images(
    section: RecoverConfig,
    teacher: Teacher,
    targets: list[Target],
    runtime: Runtime,
    *,
    first: int = 0,
    until: int | None = None,
    diverged: Mapping[int, str] | None = None,
) -> Iterator[Progress | Paused | Recovered]:
    """Optimise the images of several classes as one tensor batch (method: stage "recover").

    Every random number of a class comes from its own seeds and is drawn before the first step, so neither the other
    classes nor the device can shift it. Each class's loss is its own, so no gradient crosses classes, and one that
    becomes non-finite leaves the others as they were.

    Args:
        first: steps that every target's `before` has behind it.
        until: stop after so many steps of the whole optimisation, whose learning rate it follows.
        diverged: targets that had diverged in these steps, as in `Paused`.

    Yields:
        progress and, more seldom, where it could go on (`Paused`); at the end one `Recovered`.

    Raises:
        DivergedError: if the loss of every class became non-finite; names the step.
    """
    size, steps = teacher.image_size, section.iterations
    last = steps if until is None else until
    images = torch.cat([_start(target, section, teacher) for target in targets]).to(runtime.device)
    by_class = images.unflatten(0, (len(targets), -1))  # the same memory, outside of the gradients
    images.requires_grad_(True)
    views = _draw_views(section, targets, size).to(runtime)
    low, high = teacher.pixels.bounds(images)
    optimizer = torch.optim.Adam([images], lr=section.lr, betas=section.betas)
    if first:
        optimizer.load_state_dict(_adam_state(optimizer, targets, first))
    network = runtime.place(teacher.network)
    every = record_every(steps)
    names = tuple(term_weights(section))
    record = torch.zeros(len(range(0, last, every)), len(targets), len(names), device=runtime.device)
    for place, target in enumerate(targets if first else ()):
        record[: len(range(0, first, every)), place] = _before(target).losses.to(runtime.device)
    diverged, pulse, snapshots = dict(diverged or {}), Pulse(), SnapshotClock(3 * images.nbytes)
    with Probe(network, teacher.num_classes) as probe:
        objective = _Objective(section, targets, probe, size, runtime)
        loss_terms = runtime.maybe_compile(objective)
        for step in range(first, last):
            optimizer.param_groups[0]["lr"] = section.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            terms = loss_terms(images, views.box[step], views.flip[step], views.roll[step])
            optimizer.zero_grad(set_to_none=True)
            (terms * objective.term_weights).sum().backward()
            optimizer.step()
            with torch.no_grad():
                torch.clamp(images, low, high, out=images)
                if step % every == 0:
                    record[step // every] = terms.detach()
            if step % (every * 5) == 0 or pulse.is_due():
                yield _progress(record[step // every], names, step, steps, diverged)
            if step + 1 < last and snapshots.is_due():
                # Waits for the steps that are queued on a device, which is no cost of the snapshot.
                _look(by_class, "the images are", f"after step {step}", diverged)
                snapshots.begin()
                losses = record[: len(range(0, step + 1, every))].cpu().transpose(0, 1).clone()
                yield Paused(step + 1, losses, dict(diverged), _state(images, optimizer, len(targets)))
                snapshots.end()
    _look(by_class, "the images are", "after the last step", diverged)
    pixels = teacher.pixels.denormalize(images.nan_to_num()).cpu()
    state = _state(images, optimizer, len(targets)) if 0 < last < steps else [{} for _ in targets]
    yield Recovered(pixels.unflatten(0, (len(targets), -1)), record.cpu().transpose(0, 1), diverged, state)


def _state(images: Tensor, optimizer: torch.optim.Adam, classes: int) -> list[dict[str, Tensor]]:
    adam = optimizer.state[images]
    whole = {"images": images.detach(), "exp_avg": adam["exp_avg"], "exp_avg_sq": adam["exp_avg_sq"]}
    parts = {name: tensor.to("cpu", copy=True).unflatten(0, (classes, -1)) for name, tensor in whole.items()}
    return [{name: part[place].contiguous() for name, part in parts.items()} for place in range(classes)]


def _adam_state(optimizer: torch.optim.Adam, targets: list[Target], first: int) -> dict[str, Any]:
    names = ("exp_avg", "exp_avg_sq")
    averages = {name: torch.cat([_before(target).state[name] for target in targets]) for name in names}
    return optimizer.state_dict() | {"state": {0: {"step": torch.tensor(float(first)), **averages}}}


def _before(target: Target) -> DistilledClass | Before:
    assert target.before is not None
    return target.before


class _Objective:
    """The loss terms of every class, (classes, terms), for one shared set of images and views."""

    def __init__(
        self, section: RecoverConfig, targets: list[Target], probe: Probe, size: int, runtime: Runtime
    ) -> None:
        device = runtime.device
        self.section, self.probe, self.runtime = section, probe, runtime
        # Compiled code is bound to the value of every number that it reads, and a search changes these weights.
        self.is_weighed = {name: weight > 0 for name, weight in term_weights(section).items()}
        self.support = torch.stack([target.barycenter.support for target in targets]).to(device)
        self.weights = torch.stack([target.barycenter.weights for target in targets]).to(device)
        self.class_ids = torch.tensor([target.statistics.class_id for target in targets], device=device)
        self.bn_weights = self.weights
        if section.bn_target == "class":
            moments = list(zip(*(target.statistics.moments for target in targets), strict=True))
            self.means = [torch.stack([item.mean for item in layer]).float().to(device) for layer in moments]
            self.vars = [torch.stack([item.var for item in layer]).float().to(device) for layer in moments]
        else:
            # One distribution, to be matched by all the images of the tensor batch together (SRe2L).
            moments = probe.running_moments(runtime.images(torch.zeros(2, 3, size, size, device=device)))
            self.means = [mean.float()[None] for mean, _ in moments]
            self.vars = [var.float()[None] for _, var in moments]
            self.bn_weights = (self.weights / len(targets)).view(1, -1)
        self.term_weights = torch.tensor(list(term_weights(section).values()), device=device)

    def __call__(self, images: Tensor, box: Tensor, flip: Tensor, roll: Tensor) -> Tensor:
        classes, ipc = self.weights.shape
        size = (images.shape[-2], images.shape[-1])
        rows, columns = view_matrices(Views(box, flip, roll), size, size[0])
        views = apply_views(images.unflatten(0, (classes, ipc)), rows, columns)
        with self.runtime.autocast():
            logits, features, bn_inputs = self.probe.run(self.runtime.images(views.flatten(0, 1)))
        features = features.float().unflatten(0, (classes, ipc))
        feature = feature_loss(features, self.support, self.weights, self.section.feature_loss)
        batch_norm = torch.zeros_like(feature)
        relative = self.section.bn_weight_scale == "relative"
        if self.is_weighed["batch_norm"]:
            for layer, inputs in enumerate(bn_inputs):
                factor = self.section.first_bn_multiplier if layer == 0 else 1.0
                batch_norm = batch_norm + factor * batch_norm_loss(
                    inputs, self.means[layer], self.vars[layer], self.bn_weights, relative=relative
                )
        terms = [feature, batch_norm, cross_entropy_loss(logits, self.class_ids, ipc)]
        terms += [total_variation_loss(views.flatten(0, 1), ipc)] if "total_variation" in self.is_weighed else []
        terms += [l2_loss(views.flatten(0, 1), ipc)] if "l2" in self.is_weighed else []
        return torch.stack(terms, dim=1)


def _start(target: Target, section: RecoverConfig, teacher: Teacher) -> Tensor:
    if target.before is not None:
        return target.before.state["images"]
    if target.start is not None:
        return teacher.pixels.normalize(target.start)
    shape = (len(target.barycenter.support), 3, teacher.image_size, teacher.image_size)
    return torch.randn(shape, generator=target.seeds.child("noise").torch())


def _scales(section: RecoverConfig) -> tuple[float | np.ndarray, float]:
    """Give the least and the largest area of each step's view; a curriculum lets the least fall (Yin & Shen, 2023)."""
    low, high = section.crop_scale
    if section.curriculum == "none":
        return low, high
    part = np.minimum(np.arange(section.iterations) / max(1.0, section.curriculum_share * section.iterations), 1.0)
    left = {"step": 1.0 * (part < 1), "linear": 1 - part, "cosine": (1 + np.cos(np.pi * part)) / 2}[section.curriculum]
    return (low + (high - low) * left)[:, None], high


def _draw_views(section: RecoverConfig, targets: list[Target], size: int) -> Views:
    return Views.stack(
        [
            draw_resized_crops(
                target.seeds.child("views").numpy(),
                section.iterations,
                (size, size),
                _scales(section),
                flip=section.flip,
                roll_px=section.roll_px,
            )
            for target in targets
        ]
    )


def _progress(terms: Tensor, names: tuple[str, ...], step: int, total: int, diverged: dict[int, str]) -> Progress:
    _look(terms, "the loss is", f"at step {step} of {total}", diverged)
    sound = [place for place in range(len(terms)) if place not in diverged]
    means = terms[sound].mean(dim=0).tolist()
    note = " ".join(f"{name} {value:.3g}" for name, value in zip(names, means, strict=True))
    return Progress(step, total, note)


def _look(values: Tensor, what: str, when: str, diverged: dict[int, str]) -> None:
    """Note the classes, along the first axis, whose values are not finite."""
    for place in (~torch.isfinite(values.flatten(1)).all(dim=1)).nonzero().flatten().tolist():
        diverged.setdefault(place, f"{what} not finite {when}; lower recover.lr or recover.bn_weight")
    if len(diverged) == len(values):
        raise DivergedError(diverged[0])
