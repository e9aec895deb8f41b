"""The loop: averages, parts of batches, progress, and the state that a resumed training continues from."""

import pytest
import torch
import torch.nn.functional as F
from builders import CPU, normal

from wmdd.models.registry import build_model
from wmdd.seeding import SeedTree
from wmdd.training.trainer import Cost, Epoch, Steps, Trainer, split_batch


def trainer(accumulate=1, *, norm=False, **options):
    with SeedTree(1).scoped():
        layers = [torch.nn.Conv2d(3, 4, 3), *([torch.nn.BatchNorm2d(4)] if norm else []), torch.nn.Tanh()]
        network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5))
    labels = torch.arange(11) % 5
    return Trainer(
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        schedule=lambda step: 0.1 * (1 - step / 6),
        batches=lambda epoch: [(normal(11, 3, 8, 8, seed=5 + epoch), labels)] * 2,
        loss=F.cross_entropy,
        validate=lambda net: net.eval()(normal(4, 3, 8, 8, seed=3)).sum().sigmoid().item(),
        epochs=3,
        steps_per_epoch=2,
        runtime=CPU,
        seeds=SeedTree(0),
        accumulate=accumulate,
        **options,
    )


@pytest.mark.parametrize("parts", [2, 3, 5, 100])
def test_b25_b29_accumulated_gradient_is_the_batchs(parts):
    whole, split = trainer(), trainer(parts)
    losses = [[epoch.loss for epoch in training.run()] for training in (whole, split)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for a, b in zip(whole.network.parameters(), split.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "count"), [(11, 3), (2, 4), (1, 2), (16, 2), (7, 100)])
def test_parts_make_the_batch_and_have_two_images(size, count):
    parts = split_batch((torch.arange(size), torch.arange(size)), count)
    assert torch.equal(torch.cat([images for images, _ in parts]), torch.arange(size))
    assert min(len(images) for images, _ in parts) >= min(2, size)
    assert len(parts) <= count


def test_average_is_of_weights_and_statistics():
    training, decay = trainer(norm=True, ema=0.6), 0.6
    expected, snapshots = None, []
    step = training.optimizer.step

    def stepped():
        nonlocal expected
        step()
        now = {name: value.clone().double() for name, value in training.network.state_dict().items()}
        before = expected or now
        expected = {name: decay * before[name] + (1 - decay) * now[name] for name in now}

    training.optimizer.step = stepped
    for _ in training.run():
        snapshots.append(training.snapshot())
    for name, value in training.result.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert training.result is not training.network
    assert all("top1_ema" in point for point in training.curve)
    resumed = trainer(norm=True, ema=0.6)
    resumed.resume(snapshots[0])
    list(resumed.run())
    assert resumed.curve == training.curve
    for name, value in resumed.result.state_dict().items():
        assert torch.equal(value, training.result.state_dict()[name])


def test_average_is_updated_at_some_steps_only():
    training, steps = trainer(ema=0.6, ema_every=4), []
    update = training.averaged.update_parameters
    training.averaged.update_parameters = lambda network: (steps.append(training.step), update(network))
    list(training.run())
    assert (training.step, steps) == (6, [0, 4])


def test_progress_within_an_epoch_changes_nothing(monkeypatch):
    quiet, verbose = trainer(norm=True), trainer(norm=True)
    epochs = list(quiet.run())
    monkeypatch.setattr("wmdd.outputs.PULSE_S", 0.0)
    events = list(verbose.run())
    assert [vars(event) for event in events if isinstance(event, Epoch)] == [*map(vars, epochs)]
    steps = [event for event in events if isinstance(event, Steps)]
    assert [(event.done, event.total) for event in steps] == [(1, 2), (2, 2)] * 3
    assert str(steps[0]).startswith("step 1 of 2 of the epoch, loss ")
    for a, b in zip(quiet.network.parameters(), verbose.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_long_gradients_are_clipped():
    free, clipped = trainer(), trainer(clip_norm=1e-9)
    before = [weight.clone() for weight in clipped.network.parameters()]
    list(free.run()), list(clipped.run())
    for start, end, moved in zip(before, clipped.network.parameters(), free.network.parameters(), strict=True):
        torch.testing.assert_close(start, end, atol=1e-7, rtol=0)
        assert not torch.equal(start, moved)


def test_cost_of_each_step_is_counted():
    cost = Cost()
    for _ in range(2):
        with cost.counted():
            sum(range(200_000))
    assert cost.steps == 2
    assert cost.cpu_s > 0
    assert cost.wall_s > 0


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_resumed_state_has_its_weights_memory_format(optimizer):
    """Snapshots are contiguous; on a GPU another layout than in training runs through other kernels."""

    def trainer():
        with SeedTree(0).scoped():
            network = CPU.place(build_model("convnet2_w16", 4, 16))
        options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        images = normal(4, 3, 16, 16, seed=1)
        return Trainer(
            network=network,
            optimizer=optimizer(network.parameters(), lr=0.1, **options),
            schedule=lambda step: 0.1,
            batches=lambda epoch: [(CPU.images(images), torch.arange(4))],
            loss=F.cross_entropy,
            validate=lambda network: 0.5,
            epochs=2,
            steps_per_epoch=1,
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
