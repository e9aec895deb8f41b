"""Recovery: images of a class whose features match its barycenter, and whose statistics match the real images'.

For each class c, Adam minimises over its images X = (x_1, ..., x_k), in normalised pixels within the valid range,

    E_V [ a D(f(V X), B) + b sum_l ( |mean_l(V X) - mean_lc| + |var_l(V X) - var_lc| ) + g CE(V X, c) + priors ]

where

- V is a random view, one of a class in each step: a resized crop, a flip and a cyclic shift (`data.views`), with the
  option `tiles` after the enlargement of the tiles, which are the k images then (`method.tiles`). With the option `mix`
  each view then shows that of another image of the class in a box (`method.draws`), as students with CutMix see them;
- f(x) are the teacher's penultimate features, and B the k atoms of the class's barycenter, each with its mass;
- D is the distance of images to their atoms, image j to atom j (`losses.feature_loss`), or the Wasserstein distance
  itself to a random sample of the class's real features in each step (`method.transport`);
- mean_l and var_l are the moments of the input of batch-norm layer l over images (by the mass of their atoms) and
  positions, and mean_lc and var_lc those of the class's real images (`losses.batch_norm_loss`);
- CE is the mean cross-entropy of the teacher's logits with class c;
- a, b (lambda in the paper) and g are the options `feature_weight`, `bn_weight` and `ce_weight`.

Source: Liu et al., "Dataset Distillation via the Wasserstein Metric" (ICCV 2025, arXiv 2311.18531). The paper's formula
has squared distances and no cross-entropy: `feature_loss` "squared" and `ce_weight` 0. The released code differs from
this one in three ways. It takes one norm of the features over its tensor batch; here the loss is a sum over classes, so
that no gradient depends on which classes share a batch. All images of its batch share the view of a step; here the
images of a class do. Its real moments are means over batches, which lose the variance between them; ours are exact.

Cost: a forward and a backward pass of the teacher for each image and step; memory for the activations of all images of
the tensor batch, and four times their pixels (images, gradient, Adam's two averages).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wmdd.config.recovery import RecoverConfig
from wmdd.errors import DivergedError
from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.draws import Draws, draw
from wmdd.method.objective import Objective, term_weights
from wmdd.models.optimizers import Adam
from wmdd.models.probes import Probe
from wmdd.models.teacher import Teacher
from wmdd.outputs import Progress, Pulse, SnapshotClock
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree

RECORDS = 50
COMPILING = "torch compiles the first step of each size of batch, for up to a minute"
_AVERAGES = ("exp_avg", "exp_avg_sq")  # of Adam


def optimise(
    objective: Objective,
    loss_terms: Callable[..., Tensor],
    images: Tensor,
    optimizer: torch.optim.Adam,
    draws: Draws,
    bounds: tuple[Tensor, Tensor],
    steps: range,
) -> Iterator[tuple[int, Tensor]]:
    """Run the method's loop, which changes `images` in place; yield each step and its loss terms (classes, terms).

    Args:
        loss_terms: the objective, or what it was compiled to.
        images: (classes * ipc, 3, h, w) float32 normalised, on the device, which `optimizer` updates.
        draws: of all `recover.iterations`.
        bounds: least and largest value of each channel of a valid image.
        steps: of the `recover.iterations` in all.
    """
    section = objective.section
    for step in steps:
        optimizer.param_groups[0]["lr"] = section.lr * 0.5 * (1 + math.cos(math.pi * step / section.iterations))
        terms = loss_terms(images, **draws.at(step))
        optimizer.zero_grad(set_to_none=True)
        (terms * objective.term_weights).sum().backward()
        optimizer.step()
        with torch.no_grad():
            torch.clamp(images, *bounds, out=images)
        yield step, terms.detach()


def _work(section: RecoverConfig, images: Tensor) -> tuple[int, int]:
    """Return the pixels that all the steps compute, also if only some are run now, and the number of all steps."""
    return section.iterations * len(images) * section.tiles**2 * images[0, 0].numel(), section.iterations


def record_every(steps: int) -> int:
    """Return the number of steps from one record of the losses to the next."""
    return max(1, math.ceil(steps / RECORDS))


@dataclass(frozen=True, eq=False)
class Target:
    """What the images of one class should match, and where they start.

    Args:
        start: (ipc, 3, h, w) uint8 real images, or tiles of such; None for noise.
        num_class_images: number of images of the class, if these are a part of them.
    """

    statistics: ClassStatistics
    barycenter: Barycenter
    seeds: SeedTree
    start: Tensor | None
    num_class_images: int | None = None

    def part(self, rows: slice, number: int) -> Target:
        """Return the target of some of its images, with other seeds."""
        atoms = self.barycenter
        whole = len(atoms.support) if self.num_class_images is None else self.num_class_images
        mass = atoms.mass[rows] / atoms.mass[rows].sum()
        return Target(
            self.statistics,
            replace(atoms, support=atoms.support[rows], mass=mass, nearest=atoms.nearest[rows]),
            self.seeds.child("part", number),
            None if self.start is None else self.start[rows],
            whole,
        )


@dataclass(frozen=True, eq=False)
class Paused:
    """Where an optimisation can go on, bit for bit.

    Args:
        step: steps that are done.
        losses: (classes, records so far, terms) float32.
        diverged: as for `Recovered`.
        state: the ``images`` and Adam's ``exp_avg`` and ``exp_avg_sq``, each (classes, ipc, 3, h, w) float32.
    """

    step: int
    losses: Tensor
    diverged: dict[int, str]
    state: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Recovered:
    """Images (classes, ipc, 3, h, w) uint8 and their loss terms (classes, records, terms) float32.

    Args:
        diverged: positions of the targets whose images are not valid, with the cause.
    """

    images: Tensor
    losses: Tensor
    diverged: dict[int, str]


def recover_images(
    section: RecoverConfig,
    teacher: Teacher,
    targets: list[Target],
    runtime: Runtime,
    *,
    steps: int | None = None,
    begun: Paused | None = None,
) -> Iterator[Progress | Paused | Recovered]:
    """Optimise the images of several classes as one tensor batch, with records, progress and snapshots.

    A class whose loss becomes non-finite leaves the others as they are.

    Args:
        steps: number of steps to run of the whole optimisation, whose learning rate they follow; None for all.
        begun: where to go on, if not at the first step.

    Yields:
        progress and, more seldom, where it could go on (`Paused`), also after the last of fewer steps; at the end one
        `Recovered`.

    Raises:
        DivergedError: if the loss of every class became non-finite; names the step.
    """
    span = range(begun.step if begun else 0, section.iterations if steps is None else steps)
    starts = [*begun.state["images"]] if begun else [_start(section, target, teacher) for target in targets]
    state = _State(section, starts, begun, span.stop, runtime.device)
    statistics, barycenters = [item.statistics for item in targets], [item.barycenter for item in targets]
    seeds, count = [item.seeds for item in targets], len(barycenters[0].support)
    draws = draw(section, statistics, seeds, count, teacher.image_size, runtime)
    bounds, work = teacher.pixels.bounds(state.images), _work(section, state.images)
    runtime = runtime.uncompiled(section.uncompiled)
    if runtime.compiles_recovery(*work):
        yield Progress(span.start, section.iterations, COMPILING)
    pulse, snapshots = Pulse(), SnapshotClock(3 * state.images.nbytes)
    network = runtime.round_weights(copy.deepcopy(runtime.place(teacher.network)))
    with Probe(network, teacher.num_classes) as probe:
        objective = Objective(section, statistics, barycenters, probe, teacher.image_size, runtime)
        loss_terms = runtime.recovery(objective, *work)
        for step, terms in optimise(objective, loss_terms, state.images, state.optimizer, draws, bounds, span):
            if step % state.every == 0:
                state.losses[step // state.every] = terms
            if step % (state.every * 5) == 0 or pulse.is_due():
                yield state.progress(step, section.iterations)
            if step + 1 < span.stop and snapshots.is_due():
                # Waits for the steps that are queued on a device, which is no cost of the snapshot.
                state.check(state.by_class, "the images are", f"after step {step}")
                snapshots.begin()
                yield state.paused(step + 1)
                snapshots.end()
    state.check(state.by_class, "the images are", "after the last step")
    if 0 < span.stop < section.iterations:
        yield state.paused(span.stop)
    pixels = teacher.pixels.denormalize(state.by_class.nan_to_num()).cpu()
    yield Recovered(pixels, state.losses.cpu().transpose(0, 1), state.diverged)


class _State:
    """The images of several classes while they are optimised, Adam's averages, and the records of the losses.

    Attributes:
        images: (classes * ipc, 3, h, w) float32 normalised; `by_class` is the same memory, (classes, ipc, 3, h, w).
        losses: (records, classes, terms) float32, one record every `every` steps.
    """

    def __init__(
        self, section: RecoverConfig, starts: list[Tensor], begun: Paused | None, steps: int, device: torch.device
    ) -> None:
        self.images = torch.cat(starts).to(device).requires_grad_(True)
        self.by_class = self.images.detach().unflatten(0, (len(starts), -1))
        self.optimizer = Adam([self.images], lr=section.lr, betas=section.betas)
        self.terms, self.every = tuple(term_weights(section)), record_every(section.iterations)
        self.losses = torch.zeros(len(range(0, steps, self.every)), len(starts), len(self.terms), device=device)
        self.diverged = dict(begun.diverged) if begun else {}
        if begun:
            averages = {name: torch.cat([*begun.state[name]]) for name in _AVERAGES}
            adam = {"state": {0: {"step": torch.tensor(float(begun.step)), **averages}}}
            self.optimizer.load_state_dict(self.optimizer.state_dict() | adam)
            self.losses[: begun.losses.shape[1]] = begun.losses.transpose(0, 1).to(device)

    def paused(self, step: int) -> Paused:
        """Return the state after this number of steps, in the CPU's memory."""
        adam = self.optimizer.state[self.images]
        tensors = {"images": self.by_class} | {name: adam[name].view_as(self.by_class) for name in _AVERAGES}
        losses = self.losses[: len(range(0, step, self.every))].cpu().transpose(0, 1).clone()
        return Paused(step, losses, dict(self.diverged), {name: x.to("cpu", copy=True) for name, x in tensors.items()})

    def progress(self, step: int, total: int) -> Progress:
        """Return the last record as progress: the mean of each loss term over the classes that have not diverged."""
        terms = self.losses[step // self.every]
        self.check(terms, "the loss is", f"at step {step} of {total}")
        finite = [row for row in range(len(terms)) if row not in self.diverged]
        means = terms[finite].mean(dim=0).tolist()
        return Progress(step, total, " ".join(f"{n} {value:.3g}" for n, value in zip(self.terms, means, strict=True)))

    def check(self, values: Tensor, what: str, when: str) -> None:
        """Add to `diverged` the classes, along the first axis, whose values are not finite.

        Raises:
            DivergedError: if it is all of them.
        """
        for row in (~torch.isfinite(values.flatten(1)).all(dim=1)).nonzero().flatten().tolist():
            self.diverged.setdefault(row, f"{what} not finite {when}; lower recover.lr or recover.bn_weight")
        if len(self.diverged) == len(values):
            raise DivergedError(self.diverged[0])


def _start(section: RecoverConfig, target: Target, teacher: Teacher) -> Tensor:
    if target.start is not None:
        return teacher.pixels.normalize(target.start)
    shape = (len(target.barycenter.support) // section.tiles**2, 3, teacher.image_size, teacher.image_size)
    return torch.randn(shape, generator=target.seeds.child("noise").torch())
