"""Training with several processes: gradients, losses and counts are those of the whole batch."""

import dataclasses
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from builders import CPU
from gloo_ranks import on_ranks

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.batches import TrainingBatches, batch_places, validation_batches
from wmdd.data.geometry import Geometry
from wmdd.data.load_index import load_index
from wmdd.distributed import Ranks
from wmdd.engine.plan import plan_from
from wmdd.errors import ConfigError
from wmdd.outputs import Output, Snapshot
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit
from wmdd.stages.plans.pretrain import PRETRAIN
from wmdd.storage.store import ArtifactStore
from wmdd.training.accuracy import top1_accuracy
from wmdd.training.trainer import Trainer

SIZES = (7, 7, 5)
DIGITS = {
    "pretrain.model": "convnet2_w16",
    "pretrain.epochs": 3,
    "pretrain.batch_size": 100,
    "data.classes": ("0", "1"),
}


# -- what the processes run ------------------------------------------------------------------------------------------


def plain_network(*, norm=False):
    with SeedTree(1).scoped():
        layers = [torch.nn.Conv2d(3, 4, 3), *([torch.nn.BatchNorm2d(4)] if norm else []), torch.nn.Tanh()]
        return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5))


def batches():
    generator = SeedTree(2).torch()
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.randint(5, (size,), generator=generator))
        for size in SIZES
    ]


def trained(*, norm=False):
    """Train for one epoch; return loss, top-1, last gradients, weights and buffers."""
    ranks, network = Ranks.here(), plain_network(norm=norm)
    parts = [tuple(tensor[ranks.part(range(len(tensor)))] for tensor in batch) for batch in batches()]
    trainer = Trainer(
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        schedule=lambda step: 0.1,
        batches=lambda epoch: parts,
        loss=F.cross_entropy,
        validate=lambda net: top1_accuracy(net, parts, CPU, ranks),
        epochs=1,
        steps_per_epoch=len(SIZES),
        runtime=CPU,
        seeds=SeedTree(0),
        ranks=ranks,
        sizes=SIZES,
    )
    (epoch,) = trainer.run()
    gradients = {name: weight.grad for name, weight in network.named_parameters()}
    return epoch.loss, epoch.top1, gradients, network.state_dict()


def running_mean():
    ranks, network = Ranks.here(), plain_network(norm=True)
    network.train()
    for images, _ in batches():
        network(images[ranks.part(range(len(images)))])
    before = network[1].running_mean.clone()
    ranks.average_buffers(network)
    return before, network[1].running_mean, int(network[1].num_batches_tracked)


def from_first():
    device, ranks = torch.device("cpu"), Ranks.here()
    values = (None, b"", bytes(range(256)) * 5)
    return [ranks.from_first(value if ranks.is_first else b"another", device) for value in values]


def several(store):
    """All that needs a group, in one group."""
    workers = {"pretrain.workers": 3}
    teachers = teacher(workers, store, None), teacher(workers, store, 2)
    return Process(trained(), trained(norm=True), running_mean(), from_first(), *teachers)


def digits(changes, store):
    config = override(recipe("digits"), {**DIGITS, **changes})
    return config, load_index(config, ArtifactStore(store), lambda done, total: None)


def teacher(changes, store, cut):
    """Train a teacher of the digits; with `cut`, stop after that many epochs, and resume from the snapshot."""
    config, (index, ref) = digits(changes, store)
    planned, snapshot = plan_from(config, index, ref).tasks["pretrain"][0].units[0], None
    for stop in (cut, None) if cut else (None,):
        unit = Unit(planned.ref.unit, planned.params, lambda name: index, snapshot)
        seen = 0
        for event in PRETRAIN.run(config.pretrain, [unit], SeedTree(config.seed), CPU):
            if isinstance(event, Output):
                return event.value.to_files()["teacher.safetensors"], event.value.top1
            seen += not isinstance(event, Snapshot)
            snapshot = event.data if isinstance(event, Snapshot) else snapshot
            # The first process yields two events in an epoch, and the others one.
            if stop and seen == stop and (isinstance(event, Snapshot) or not Ranks.here().is_first):
                break
    return None


class Process(NamedTuple):
    """What one process of the group returned."""

    plain: tuple
    normed: tuple
    running_mean: tuple
    received: list
    teacher: tuple | None
    resumed: tuple | None


# -- tests -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("store"))
    digits({}, folder)
    return folder


@pytest.fixture(scope="module")
def three(store):
    return on_ranks(3, several, store)


def test_gradients_of_uneven_parts_are_the_batchs(three):
    loss, top1, gradients, weights = trained()
    for process in three:
        assert process.plain[0] == pytest.approx(loss, abs=1e-6)
        assert process.plain[1] == top1
        torch.testing.assert_close(process.plain[2], gradients, rtol=0, atol=1e-6)
        torch.testing.assert_close(process.plain[3], weights, rtol=0, atol=1e-6)


def test_all_processes_hold_one_network(three):
    first, *others = (process.normed for process in three)
    for other in others:
        assert other[:2] == first[:2]
        assert all(torch.equal(value, other[3][name]) for name, value in first[3].items())


def test_running_statistics_are_averaged(three):
    means = torch.stack([process.running_mean[0] for process in three])
    assert not torch.equal(means[0], means[1])
    for process in three:
        torch.testing.assert_close(process.running_mean[1], means.mean(dim=0))
        assert process.running_mean[2] == len(SIZES)


def test_bytes_of_the_first_process_reach_all(three):
    for process in three:
        assert process.received == [None, b"", bytes(range(256)) * 5]


def test_interrupted_teacher_of_three_is_the_same(three, store):
    first, *others = three
    assert first.resumed == first.teacher
    assert first.teacher[1] > 0.95
    assert first.teacher[0] != teacher({}, store, None)[0], "each normalises its part by itself"
    assert all(process.teacher is None and process.resumed is None for process in others)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_parts_of_a_batch_make_the_batch(size):
    for count, batch_size in ((100, 16), (97, 16), (96, 32), (20, 100), (33, 32)):
        batches = batch_places(count, batch_size, Ranks(0, size))
        assert [row for batch in batches for row in batch] == list(range(sum(map(len, batches))))
        assert count - sum(map(len, batches)) < 2 * size
        for batch in batches:
            parts = [list(range(count))[Ranks(rank, size).part(batch)] for rank in range(size)]
            assert sorted(row for part in parts for row in part) == list(batch)
            assert min(map(len, parts)) >= 2
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("memory_bytes", [0, 2**30])
@pytest.mark.parametrize("size", [2, 5])
def test_processes_share_the_images_of_one(store, size, memory_bytes):
    config, (index, _) = digits({}, store)
    runtime, data = dataclasses.replace(CPU, memory_bytes=memory_bytes), config.data
    geometry = Geometry(data.image_size, data.crop_ratio, data.normalization)

    def training(ranks):
        return list(TrainingBatches(index, geometry, config.pretrain, SeedTree(0), runtime, ranks).epoch(1))

    def validation(ranks):
        return list(validation_batches(index, geometry, 4, runtime, ranks))

    whole, parts = training(Ranks()), [training(Ranks(rank, size)) for rank in range(size)]
    for step, (images, labels) in enumerate(whole):
        for rank in range(size):
            torch.testing.assert_close(parts[rank][step][0], images[rank::size], rtol=0, atol=1e-6)
            assert torch.equal(parts[rank][step][1], labels[rank::size])
    images, labels = (torch.cat(tensors) for tensors in zip(*validation(Ranks()), strict=True))
    assert len(images) % size, "a count that divides would show nothing"
    for rank in range(size):
        part = [torch.cat(tensors) for tensors in zip(*validation(Ranks(rank, size)), strict=True)]
        assert torch.equal(part[0], images[rank::size])
        assert torch.equal(part[1], labels[rank::size])


def test_teacher_for_several_is_refused_by_one(store):
    with pytest.raises(ConfigError, match=r"pretrain\.workers=2: .* use --executor ray"):
        teacher({"pretrain.workers": 2}, store, None)


@pytest.mark.parametrize(
    ("device", "reason"),
    [("cpu", "torch sees no GPU here; set it to cpu"), ("cuda", r"no nvJPEG; install wmdd\[jpeg\] for this GPU, .*")],
)
def test_decoding_on_a_gpu_needs_one_and_torchcodec(store, device, reason, monkeypatch):
    """Both are refused before anything is moved to the device."""

    def fail(files, device):
        raise RuntimeError("no nvJPEG\nin this build")

    monkeypatch.setattr("wmdd.stages.pretrain.decode_on_gpu", fail)
    config, (index, ref) = digits({"pretrain.decode": "gpu"}, store)
    planned = plan_from(config, index, ref).tasks["pretrain"][0].units[0]
    unit = Unit(planned.ref.unit, planned.params, lambda name: index)
    runtime = dataclasses.replace(CPU, device=torch.device(device))
    with pytest.raises(ConfigError, match=f"^pretrain.decode=gpu: {reason}"):
        list(PRETRAIN.run(config.pretrain, [unit], SeedTree(0), runtime))
