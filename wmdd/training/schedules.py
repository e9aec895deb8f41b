"""Learning rates: one function per shape, from the number of a step (0 is the first) to the rate of that step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from wmdd.config.students import EvaluateConfig
from wmdd.config.teacher import PretrainConfig

Rate = Callable[[int], float]

# Fractions of training, as EDC trains on CIFAR-10, and on CIFAR-100 and ImageNet's subsets (Shao et al., 2024).
HALVED_AT = (0.8, 0.9, 0.95)
TAIL_FROM = 5 / 6
FIFTHS_AT = (2 / 3, 5 / 6)  # as CIM trains


def warm_up(step: int, *, lr: float, warmup: int, then: Rate) -> float:
    """Rise linearly to `lr` over `warmup` steps; `then` begins at its own step 0 after them."""
    return lr * (step + 1) / warmup if step < warmup else then(step - warmup)


def cosine(step: int, *, lr: float, steps: int, stretch: float = 1.0, end: float = 0.0) -> float:
    """Fall from `lr` along a half cosine that would reach `end` after `steps * stretch` steps."""
    return end + (lr - end) * 0.5 * (1 + math.cos(math.pi * _fraction(step, steps) / stretch))


def tail(step: int, *, lr: float, steps: int, stretch: float, start: float) -> float:
    """Follow `cosine`; after the fraction `start` of training hold it, times the fraction of steps that remain (EDC).

    The rate drops at `start`, where the factor begins at `1 - start`.
    """
    fraction = _fraction(step, steps)
    remaining = 1 - fraction if fraction > start else 1.0
    return lr * remaining * 0.5 * (1 + math.cos(math.pi * min(fraction, start) / stretch))


def line(step: int, *, lr: float, steps: int) -> float:
    """Fall from `lr` to 0 at a constant pace."""
    return lr * (1 - _fraction(step, steps))


def drops(step: int, *, lr: float, steps: int, at: Sequence[float], factor: float) -> float:
    """Multiply the rate by `factor` at each of these fractions of training."""
    return float(lr * factor ** sum(_fraction(step, steps) >= fraction for fraction in at))


def stairs(step: int, *, lr: float, every: int, gamma: float) -> float:
    """Multiply the rate by `gamma` after every `every` steps."""
    return float(lr * gamma ** (step // every))


def _fraction(step: int, steps: int) -> float:
    return step / max(1, steps)


def teacher_schedule(section: PretrainConfig, steps_per_epoch: int) -> Rate:
    """Return the learning rate of every step of a teacher's training."""
    warmup = round(section.warmup_epochs * steps_per_epoch)
    if section.schedule == "cosine":
        then = partial(cosine, lr=section.lr, steps=section.epochs * steps_per_epoch - warmup, end=section.lr_min)
    else:
        epochs = section.lr_step_epochs if section.schedule == "steps" else 1
        then = partial(stairs, lr=section.lr, every=epochs * steps_per_epoch, gamma=section.lr_gamma)
    return partial(warm_up, lr=section.lr, warmup=warmup, then=then)


def student_schedule(section: EvaluateConfig, steps: int) -> Rate:
    """Return the learning rate of every step of a student's training."""
    lr, stretch = section.lr, section.cosine_stretch
    match section.schedule:
        case "linear":
            return partial(line, lr=lr, steps=steps)
        case "steps":
            return partial(drops, lr=lr, steps=steps, at=HALVED_AT, factor=0.5)
        case "fifths":
            return partial(drops, lr=lr, steps=steps, at=FIFTHS_AT, factor=0.2)
        case "tail":
            return partial(tail, lr=lr, steps=steps, stretch=stretch, start=TAIL_FROM)
        case "cosine":
            return partial(cosine, lr=lr, steps=steps, stretch=stretch)
