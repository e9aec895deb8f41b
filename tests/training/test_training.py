"""Schedules, normalisation, compiled recovery against eager, and the layout of resumed state."""

import dataclasses
import math

import pytest
import torch

from wmdd.config.sections import RecoverConfig, RuntimeConfig
from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.moments import Moments
from wmdd.method.recovery import Target, recover_images
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.normalization import NORMALIZATIONS
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.training.trainer import Schedule, Trainer

CPU = Runtime.create(RuntimeConfig(device="cpu", precision="fp32", compile="off"))


def test_schedule_warms_up_and_ends_near_zero():
    schedule = Schedule(1.0, 100, warmup=10)
    assert schedule.at(0) == pytest.approx(0.1)
    assert schedule.at(10) == pytest.approx(1.0)
    assert 0 < schedule.at(99) < 0.001
    assert Schedule(1.0, 100, stretch=2.0).at(100) == pytest.approx(0.5)


def test_tail_is_the_cosine_where_it_begins_times_what_is_left():
    """EDC on CIFAR-100 and the subsets of ImageNet: half a cosine, then a line to 0 which begins at a sixth of it."""
    schedule, cosine = Schedule(1.0, 600, stretch=2.0, tail_from=5 / 6), Schedule(1.0, 600, stretch=2.0)
    assert [schedule.at(step) for step in range(501)] == [cosine.at(step) for step in range(501)]
    there = 0.5 * (1 + math.cos(math.pi * 5 / 12))
    assert [schedule.at(step) for step in (501, 550, 599)] == pytest.approx(
        [there * (1 - s / 600) for s in (501, 550, 599)]
    )


def test_schedule_halves_in_steps():
    schedule = Schedule(1.0, 100, halved_at=(0.8, 0.9, 0.95))
    assert [schedule.at(step) for step in (0, 79, 80, 89, 90, 95, 99)] == [1, 1, 0.5, 0.5, 0.25, 0.125, 0.125]


SIZE, CLASSES, IPC = 16, 4, 3


@pytest.fixture(scope="module")
def teacher():
    with SeedTree(0).scoped():
        network = build_model("convnet3_w16", CLASSES, SIZE)
    names = tuple("abcd")
    return Teacher("convnet3_w16", "auto", dict(network.state_dict()), names, 0.25, SIZE, 1.0, "half")


def target_of(teacher, class_id, seed=0, start=None):
    images = 0.3 * torch.randn(20, 3, SIZE, SIZE, generator=SeedTree(class_id).torch()) + 0.2 * class_id - 0.5
    with Probe(teacher.network, CLASSES) as probe, torch.no_grad():
        _, features, inputs = probe.run(images)
        statistics = ClassStatistics(class_id, features, tuple(Moments.of(layer) for layer in inputs))
    weights = torch.full((IPC,), 1 / IPC)
    barycenter = Barycenter(class_id, features[:IPC], weights, torch.arange(IPC), (1.0,), True, (0.0,) * 5)
    return Target(statistics, barycenter, SeedTree(seed).child("recover", class_id), start)


def test_compiled_recovery_agrees_over_a_few_steps(teacher):
    compiled = dataclasses.replace(CPU, compile=True)
    section = RecoverConfig(iterations=3, roll_px=2, lr=0.1)
    runs = [list(recover_images(section, teacher, [target_of(teacher, 0)], runtime))[-1] for runtime in (CPU, compiled)]
    torch.testing.assert_close(runs[0].losses, runs[1].losses, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_normalization_and_back_changes_no_pixel(name):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    constants = NORMALIZATIONS[name]
    assert torch.equal(constants.denormalize(constants.normalize(pixels)), pixels)
    low, high = constants.bounds(torch.zeros(1))
    assert constants.normalize(pixels).amin(dim=(0, 2, 3)).tolist() == pytest.approx(low.flatten().tolist())
    assert constants.normalize(pixels).amax(dim=(0, 2, 3)).tolist() == pytest.approx(high.flatten().tolist(), abs=1e-5)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_resumed_optimiser_state_has_the_memory_format_of_its_weights(optimizer):
    """Snapshots are contiguous; on a GPU another layout than in training runs through other kernels."""

    def trainer():
        with SeedTree(0).scoped():
            network = CPU.place(build_model("convnet2_w16", 4, 16))
        options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        images = torch.randn(4, 3, 16, 16, generator=SeedTree(1).torch())
        return Trainer(
            network=network,
            optimizer=optimizer(network.parameters(), lr=0.1, **options),
            schedule=Schedule(0.1, 2),
            batches=lambda epoch: [(CPU.images(images), torch.arange(4))],
            loss=torch.nn.functional.cross_entropy,
            validate=lambda network: 0.5,
            epochs=2,
            runtime=CPU,
            seeds=SeedTree(2),
        )

    first, resumed = trainer(), trainer()
    next(first.run())
    resumed.resume(first.snapshot())
    weights = list(zip(resumed.network.parameters(), first.network.parameters(), strict=True))
    assert any(weight.ndim == 4 and not weight.is_contiguous() for weight, _ in weights)
    for weight, before in weights:
        for name, value in resumed.optimizer.state[weight].items():
            assert torch.equal(value, first.optimizer.state[before][name])
            assert value.shape != weight.shape or value.stride() == weight.stride()
