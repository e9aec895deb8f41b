"""The teacher's optimiser options against torch's and torchvision's own."""

import pytest
import torch

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.sections import EvaluateConfig, PretrainConfig
from wmdd.data.augment import _each
from wmdd.errors import ConfigError
from wmdd.models.registry import build_model
from wmdd.stages.evaluate import _schedule as _student_schedule
from wmdd.stages.pretrain import _optimizer, _schedule
from wmdd.training.trainer import Schedule, decay_groups

STEPS, EPOCHS = 5, 12


def followed(make):
    """The rate of each epoch by a scheduler of torch, which steps by epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    scheduler, rates = make(optimizer), []
    for _ in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("changes", "make"),
    [
        (
            {"schedule": "steps", "lr_step_epochs": 4, "lr_gamma": 0.3},
            lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.3),
        ),
        (
            {"schedule": "exponential", "lr_gamma": 0.9},
            lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        ),
        ({"lr_min": 0.1}, lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, 0.1)),
    ],
)
def test_rate_at_the_start_of_every_epoch_is_that_of_torchs_scheduler(changes, make):
    schedule = _schedule(PretrainConfig(lr=0.4, epochs=EPOCHS, **changes), STEPS)
    assert [schedule.at(epoch * STEPS) for epoch in range(EPOCHS)] == pytest.approx(followed(make))


def test_steps_of_the_rate_begin_after_the_warm_up():
    schedule = _schedule(PretrainConfig(lr=0.4, epochs=9, warmup_epochs=1, schedule="steps", lr_step_epochs=3), STEPS)
    assert [schedule.at(step) for step in (4, 5, 19, 20)] == pytest.approx([0.4, 0.4, 0.4, 0.04])


def test_straight_line_of_a_student_ends_at_zero():
    line = Schedule(0.2, 10, line=True)
    assert [line.at(step) for step in (0, 5, 9)] == pytest.approx([0.2, 0.1, 0.02])
    assert _student_schedule(EvaluateConfig(lr=0.2, schedule="linear"), 10) == line


def test_norms_and_biases_decay_by_shares_of_their_own_and_no_parameter_is_lost():
    network = build_model("resnet18", 10, 32)
    groups = decay_groups(network, 0.1, 0.02, 0.003, 0.1)
    counted = {group["weight_decay"]: len(group["params"]) for group in groups}
    assert counted == {0.1: 21, 0.02: 40, 0.003: 1}  # 20 convolutions and the last layer, 20 norms, its bias
    found = {id(parameter) for group in groups for parameter in group["params"]}
    assert found == {id(parameter) for parameter in network.parameters()}


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
def test_decay_is_that_of_the_optimiser_unless_it_is_set(changes, decays):
    made = _optimizer(PretrainConfig(weight_decay=0.5, **changes), build_model("convnet2_w16", 3, 16))
    assert [group["weight_decay"] for group in made.param_groups] == decays
    assert sum(len(group["params"]) for group in made.param_groups) == len(
        list(build_model("convnet2_w16", 3, 16).parameters())
    )


@pytest.mark.parametrize("name", ["randaugment", "augmix"])
def test_strength_is_torchvisions(name):
    import torchvision.transforms.v2 as v2

    shown = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    for strength, theirs in ((0, {}), (7, {"randaugment": {"magnitude": 7}, "augmix": {"severity": 7}}[name])):
        kind = {"randaugment": v2.RandAugment, "augmix": v2.AugMix}[name](**theirs)
        torch.manual_seed(3)
        expected = kind(shown[0])
        torch.manual_seed(3)
        assert torch.equal(_each(name, strength)(shown)[0], expected)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pretrain.lr_step_epochs": 5}, r"lr_step_epochs=5: does nothing with pretrain\.schedule=cosine"),
        ({"pretrain.lr_gamma": 0.5}, r"lr_gamma=0\.5: does nothing with pretrain\.schedule=cosine"),
        ({"pretrain.ema_every": 32}, r"ema_every=32: does nothing with pretrain\.ema=0\.0"),
        ({"pretrain.augment_strength": 5}, r"augment_strength=5: pretrain\.augment=none has no strength"),
        ({"pretrain.augment": "augmix", "pretrain.augment_strength": 11}, "severity of augmix ends at 10"),
        ({"pretrain.lr_min": 1.0}, r"lr_min=1\.0: is above pretrain\.lr"),
        ({"pretrain.lr_min": 0.001, "pretrain.schedule": "steps"}, "only a cosine ends at it"),
    ],
)
def test_option_that_would_do_nothing_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        override(recipe("cifar10"), changes)


def test_none_of_these_is_part_of_a_key_until_it_is_used():
    silent = PretrainConfig().for_key()
    assert not {"schedule", "lr_min", "lr_gamma", "augment_strength", "ema_every", "norm_weight_decay"} & set(silent)
    assert PretrainConfig(schedule="exponential").for_key() == silent | {"schedule": "exponential"}
