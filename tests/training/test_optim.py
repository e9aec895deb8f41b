"""Which parameters decay, and by which optimiser they are updated."""

import copy

import pytest
import torch
import torch.nn.functional as F
from builders import CPU, normal

from wmdd.config.students import EvaluateConfig
from wmdd.config.teacher import PretrainConfig
from wmdd.method.temperatures import StudentTemperature
from wmdd.models import optimizers
from wmdd.models.registry import build_model
from wmdd.seeding import SeedTree
from wmdd.training.optim import groups_by_layer, hidden_weights, student_optimizer, teacher_optimizer
from wmdd.training.trainer import Trainer


def test_each_parameter_decays_by_its_layer():
    network = build_model("resnet18", 10, 32)
    groups = groups_by_layer(network, 0.1, 0.02, 0.003)
    counts = {group["weight_decay"]: len(group["params"]) for group in groups}
    assert counts == {0.1: 21, 0.02: 40, 0.003: 1}  # 20 convolutions and the last layer, 20 norms, its bias
    parameters = {id(parameter) for group in groups for parameter in group["params"]}
    assert parameters == {id(parameter) for parameter in network.parameters()}


@pytest.mark.parametrize(
    ("changes", "decays"),
    [
        ({}, [0.5]),
        ({"norm_weight_decay": 0.0}, [0.5, 0.0, 0.5]),
        ({"optimizer": "rmsprop", "bias_weight_decay": 0.0}, [0.5, 0.5, 0.0]),
        ({"optimizer": "adamw"}, [0.5, 0.0]),
        ({"optimizer": "adamw", "bias_weight_decay": 0.2}, [0.5, 0.0, 0.2]),
    ],
)
def test_teachers_decay_is_the_optimisers_unless_set(changes, decays):
    network = build_model("convnet2_w16", 3, 16)
    optimizer = teacher_optimizer(PretrainConfig(weight_decay=0.5, **changes), network)
    assert type(optimizer).__name__.lower() == changes.get("optimizer", "sgd")
    assert [group["weight_decay"] for group in optimizer.param_groups] == decays
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


@pytest.mark.parametrize(("name", "kind"), [("sgd", optimizers.SGD), ("adamw", optimizers.AdamW)])
def test_student_decays_weights_of_two_dimensions(name, kind):
    network = build_model("convnet2_w16", 3, 16)
    optimizer = student_optimizer(EvaluateConfig(optimizer=name, weight_decay=0.5, lr=0.1), network)
    assert type(optimizer) is kind
    matrices, others = optimizer.param_groups
    assert (matrices["weight_decay"], others["weight_decay"], matrices["lr"]) == (0.5, 0.0, 0.1)
    assert {weight.ndim for weight in matrices["params"]} == {2, 4}
    assert {weight.ndim for weight in others["params"]} == {1}


def test_muon_trains_hidden_matrices_and_adamw_all_else():
    network = build_model("resnet18", 10, 32)
    optimizer = student_optimizer(EvaluateConfig(optimizer="muon", weight_decay=0.5, lr=0.1), network)
    hidden, matrices, others = optimizer.param_groups
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5, 0.0]
    assert len(hidden["params"]) == 19  # of 20 convolutions
    assert {id(weight) for weight in matrices["params"]} == {id(network.conv1.weight), id(network.fc.weight)}
    assert {weight.ndim for weight in others["params"]} == {1}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    weights = {id(weight) for weight in hidden_weights(build_model("mobilenet_v2", 10, 32))}
    layers = [layer for layer in build_model("mobilenet_v2", 10, 32).modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(weights) == sum(layer.groups == 1 for layer in layers) - 1


def test_network_without_hidden_matrices_is_trained_by_adamw():
    network = build_model("convnet1_w8", 3, 16)
    adamw, muon = (
        student_optimizer(EvaluateConfig(optimizer=name), copy.deepcopy(network)) for name in ("adamw", "muon")
    )
    for optimizer in (adamw, muon):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = torch.ones_like(weight)
        optimizer.step()
    weights = [[weight for group in made.param_groups for weight in group["params"]] for made in (adamw, muon)]
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_temperature_is_learned_by_adamw_at_its_own_rate(name):
    network, temperature = build_model("convnet2_w16", 3, 16), StudentTemperature()
    section = EvaluateConfig(optimizer=name, weight_decay=0.5, lr=0.1, student_temperature_lr=0.02)
    optimizer, plain = student_optimizer(section, network, temperature), student_optimizer(section, network)
    *others, last = optimizer.param_groups
    assert last["params"] == [temperature.log_ratio]
    assert (last["lr"], last["weight_decay"], last["lr_scale"]) == (0.02, 0.0, pytest.approx(0.2))
    assert [group["params"] for group in others] == [group["params"] for group in plain.param_groups]
    temperature.log_ratio.grad = torch.tensor(-3.0)
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert temperature.log_ratio.item() == pytest.approx(0.02)  # AdamW's first step is its rate


def test_rates_of_all_groups_follow_the_schedule():
    trainer = training("student's Muon")
    rates = []
    trainer.optimizer.register_step_post_hook(
        lambda optimizer, *_: rates.append([group["lr"] for group in optimizer.param_groups])
    )
    list(trainer.run())
    assert rates == [pytest.approx([20 * rate, rate, rate]) for rate in map(trainer.schedule, range(6))]


OPTIMIZERS = {
    "student's AdamW": (student_optimizer, EvaluateConfig(weight_decay=0.1)),
    "student's SGD": (student_optimizer, EvaluateConfig(optimizer="sgd", weight_decay=0.1)),
    "teacher's SGD": (teacher_optimizer, PretrainConfig(nesterov=True, weight_decay=0.1)),
    "teacher's AdamW": (teacher_optimizer, PretrainConfig(optimizer="adamw", weight_decay=0.1)),
}


MUON = {"student's Muon": (student_optimizer, EvaluateConfig(optimizer="muon", weight_decay=0.1))}


def training(name, *, fused=True):
    """Six steps of a network in the runtime's memory format, three epochs of two."""
    with SeedTree(1).scoped():
        network = CPU.place(build_model("convnet2_w16", 4, 16))
    make, section = (OPTIMIZERS | MUON)[name]
    optimizer = make(section, network)
    assert all(group["fused"] for group in optimizer.param_groups if "ns_steps" not in group)
    if not fused:
        optimizer = type(optimizer)([{**group, "fused": False} for group in optimizer.param_groups])
    return Trainer(
        network=network,
        optimizer=optimizer,
        schedule=lambda step: 0.01 * (1 - step / 6),
        batches=lambda epoch: [(CPU.images(normal(4, 3, 16, 16, seed=2 * epoch + i)), torch.arange(4)) for i in (0, 1)],
        loss=F.cross_entropy,
        validate=lambda network: 0.5,
        epochs=3,
        steps_per_epoch=2,
        runtime=CPU,
        seeds=SeedTree(0),
    )


def weights_after(trainer):
    list(trainer.run())
    return [weight.detach() for weight in trainer.network.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fused_steps_are_those_of_torchs_default(name):
    fused, default = weights_after(training(name)), weights_after(training(name, fused=False))
    for weight, other in zip(fused, default, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*OPTIMIZERS, *MUON])
def test_resumed_training_equals_an_undisturbed_one(name):
    whole = training(name)
    run = whole.run()
    next(run)
    resumed = training(name)
    resumed.resume(whole.snapshot())
    list(run)
    for weight, other in zip(weights_after(resumed), whole.network.parameters(), strict=True):
        assert torch.equal(weight, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_from_a_snapshot_of_torchs_default(name):
    default = training(name, fused=False)
    run = default.run()
    next(run)
    resumed = training(name)
    resumed.resume(default.snapshot())
    list(run)
    for weight, other in zip(weights_after(resumed), default.network.parameters(), strict=True):
        torch.testing.assert_close(weight, other.detach(), rtol=1e-5, atol=1e-6)
    states = [value for state in resumed.optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in states} == {torch.float32}
