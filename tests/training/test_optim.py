"""Which parameters decay, and by which optimiser they are updated."""

import pytest

from wmdd.config.students import EvaluateConfig
from wmdd.config.teacher import PretrainConfig
from wmdd.models import optimizers
from wmdd.models.registry import build_model
from wmdd.training.optim import groups_by_layer, student_optimizer, teacher_optimizer


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
