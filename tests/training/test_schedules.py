"""Learning rates against closed forms and torch's schedulers."""

import functools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from wmdd.config.students import EvaluateConfig
from wmdd.config.teacher import PretrainConfig
from wmdd.training.schedules import cosine, drops, line, student_schedule, tail, teacher_schedule, warm_up

STEPS, EPOCHS = 5, 12


def test_rate_rises_in_the_warm_up_and_ends_near_zero():
    then = functools.partial(cosine, lr=1.0, steps=90)
    rates = [warm_up(step, lr=1.0, warmup=10, then=then) for step in range(100)]
    assert rates[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    assert 0 < rates[99] < 0.001
    assert cosine(100, lr=1.0, steps=100, stretch=2.0) == pytest.approx(0.5)


def test_tail_is_the_held_cosine_times_what_remains():
    """EDC on CIFAR-100 and the subsets of ImageNet: half a cosine, then a line to 0 which begins at a sixth of it."""
    rates = [tail(step, lr=1.0, steps=600, stretch=2.0, start=5 / 6) for step in range(600)]
    assert rates[:501] == [cosine(step, lr=1.0, steps=600, stretch=2.0) for step in range(501)]
    held = 0.5 * (1 + math.cos(math.pi * 5 / 12))
    assert rates[501:] == pytest.approx([held * (1 - step / 600) for step in range(501, 600)])


def test_rate_is_halved_at_fractions_of_training():
    at = (0.8, 0.9, 0.95)
    rates = [drops(step, lr=1.0, steps=100, at=at, factor=0.5) for step in (0, 79, 80, 89, 90, 95, 99)]
    assert rates == [1, 1, 0.5, 0.5, 0.25, 0.125, 0.125]


def test_rate_falls_to_a_fifth_at_two_thirds_and_five_sixths():
    rate = student_schedule(EvaluateConfig(lr=1e-3, schedule="fifths"), 6000)
    rates = [rate(step) for step in (0, 3999, 4000, 4999, 5000, 5999)]
    assert rates == pytest.approx([1e-3, 1e-3, 2e-4, 2e-4, 4e-5, 4e-5])


def test_line_ends_at_zero():
    assert [line(step, lr=0.2, steps=10) for step in (0, 5, 9)] == pytest.approx([0.2, 0.1, 0.02])


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, functools.partial(cosine, stretch=1.0)),
        ({"cosine_stretch": 2.0}, functools.partial(cosine, stretch=2.0)),
        ({"schedule": "linear"}, line),
        ({"schedule": "steps"}, functools.partial(drops, at=(0.8, 0.9, 0.95), factor=0.5)),
        ({"schedule": "fifths"}, functools.partial(drops, at=(2 / 3, 5 / 6), factor=0.2)),
        ({"schedule": "tail", "cosine_stretch": 2.0}, functools.partial(tail, stretch=2.0, start=5 / 6)),
    ],
)
def test_student_follows_the_shape_of_its_schedule(changes, shape):
    rate = student_schedule(EvaluateConfig(lr=0.2, **changes), 40)
    assert [rate(step) for step in range(40)] == [shape(step, lr=0.2, steps=40) for step in range(40)]


def rates_of(scheduler):
    """The rate of each epoch by a scheduler of torch, which steps by epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule, rates = scheduler(optimizer), []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("changes", "scheduler"),
    [
        (
            {"schedule": "steps", "lr_step_epochs": 4, "lr_gamma": 0.3},
            lambda optimizer: lr_scheduler.StepLR(optimizer, 4, 0.3),
        ),
        ({"schedule": "exponential", "lr_gamma": 0.9}, lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9)),
        ({"lr_min": 0.1}, lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, 0.1)),
    ],
)
def test_teacher_follows_torchs_scheduler(changes, scheduler):
    rate = teacher_schedule(PretrainConfig(lr=0.4, epochs=EPOCHS, **changes), STEPS)
    assert [rate(epoch * STEPS) for epoch in range(EPOCHS)] == pytest.approx(rates_of(scheduler))


def test_stairs_begin_after_the_warm_up():
    section = PretrainConfig(lr=0.4, epochs=9, warmup_epochs=1, schedule="steps", lr_step_epochs=3)
    rate = teacher_schedule(section, STEPS)
    assert [rate(step) for step in (4, 5, 19, 20)] == pytest.approx([0.4, 0.4, 0.4, 0.04])
