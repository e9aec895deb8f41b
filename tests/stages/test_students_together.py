"""A student that several processes train is the one that a process trains alone, but for rounding."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from builders import CPU, normal
from gloo_ranks import on_ranks

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.geometry import Geometry
from wmdd.data.load_index import load_index
from wmdd.distributed import ALONE, Ranks
from wmdd.engine.plan import plan_from
from wmdd.engine.preflight import check
from wmdd.errors import ConfigError
from wmdd.method.artifacts import DistilledClass
from wmdd.method.label_batches import draw_epoch
from wmdd.method.soft_labels import LabelBlock
from wmdd.models.registry import build_model, draws
from wmdd.models.teacher import Teacher
from wmdd.outputs import Output, Snapshot, SnapshotClock
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit
from wmdd.stages.plans.evaluate import EVALUATE, Params
from wmdd.storage.artifact import unpack
from wmdd.storage.store import ArtifactStore
from wmdd.training.shared_norm import share_batch_norm
from wmdd.training.trainer import part_rows

pytestmark = pytest.mark.slow
IPC, CLASSES = 5, 10
CHANGES = {
    "ipc": IPC,
    "relabel.epochs": 4,
    "relabel.batch_size": 15,  # the last batch has 5 images, which are accumulated in parts of 2 and 3
    "evaluate.optimizer": "sgd",  # AdamW follows the signs of gradients that are nothing but rounding
    "evaluate.lr": 0.05,
    "evaluate.ema": 0.5,
    "evaluate.accumulate": 2,
    "evaluate.val_every": 2,
    "evaluate.val_batch_size": 100,
}
SOFT = {"evaluate.ce_weight": 0.1}
MUON = {
    "evaluate.optimizer": "muon",
    "evaluate.lr": 0.01,
    "evaluate.student_temperature": "fitted",
    "evaluate.temperature_decay": 0.5,
    "evaluate.temperature_every": 1,
}
FIXED = {"evaluate.labels": "fixed", "evaluate.ce_weight": 0.1, "relabel.mix": "mixup"}
HARD = {"evaluate.labels": "hard", "relabel.mix": "none", "evaluate.augment": "trivialaugment"}


class Activated(torch.nn.BatchNorm2d):
    """A layer that does more than normalise, as some of timm's do."""

    def forward(self, images):
        running = self.running_mean, self.running_var
        return torch.tanh(F.batch_norm(images, *running, self.weight, self.bias, self.training, self.momentum))


# -- what the processes run ------------------------------------------------------------------------------------------


def normed(ranks):
    """Return this process's outputs, the gradients of its images and the mean ones of weights, and statistics."""
    part, network = ranks.part(range(7)), torch.nn.Sequential(torch.nn.BatchNorm2d(3), Activated(3))
    network[0].weight.data[:], network[0].bias.data[:] = normal(3), normal(3, seed=1)
    share_batch_norm(network, ranks)
    images = (normal(7, 3, 4, 4) * 2 + 50)[part].requires_grad_()
    output = network(images)
    (output * normal(7, 3, 4, 4, seed=2)[part]).sum().backward()
    gradients = [ranks.sum(weight.grad) for weight in network.parameters()]
    return output.detach(), images.grad, gradients, network.state_dict(), network.eval()(images).detach()


def student(changes, store, workers=1, resume=None):
    """Train a student of random images; return its snapshots and its scores."""
    config = override(recipe("digits"), {**CHANGES, **changes, "evaluate.workers": workers})
    index, _ = load_index(config, ArtifactStore(store), lambda done, total: None)
    generator, size = SeedTree(3).torch(), config.data.image_size
    pixels = torch.randint(256, (CLASSES, IPC, 3, size, size), dtype=torch.uint8, generator=generator)
    mass = torch.rand(CLASSES, IPC, generator=generator)
    classes = [DistilledClass(c, pixels[c], mass[c] / mass[c].sum()) for c in range(CLASSES)]
    drawn = [draw_epoch(config.relabel, epoch, IPC * CLASSES, size, SeedTree(4)) for epoch in range(4)]
    batches = [
        replace(batch, logits=normal(len(batch.images), CLASSES, seed=batch.batch).half())
        for epoch in drawn
        for batch in epoch
    ]
    meta = {"first_epoch": 0, "epochs": 4, "batches": 4, "classes": CLASSES}
    values = {"index": index, "classes": classes, "labels": [LabelBlock.write(batches, meta)]}
    values["teacher"] = teacher(index, size)
    geometry = Geometry(size, config.data.crop_ratio, config.data.normalization)
    params = Params(
        "convnet2_w8", 0, "distilled", geometry, "wmdd", "hash", views=config.relabel.drawn(config.evaluate.labels)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SnapshotClock, "is_due", lambda clock: True)
        events = list(EVALUATE.run(config.evaluate, [Unit("it", params, values.get, resume)], SeedTree(0), CPU))
    snapshots = [event.data for event in events if isinstance(event, Snapshot)]
    return snapshots, [event.value for event in events if isinstance(event, Output)]


def teacher(index, size):
    with SeedTree(5).scoped():
        weights = build_model("convnet2_w8", CLASSES, size).state_dict()
    return Teacher("convnet2_w8", "auto", weights, index.class_names, 0.5, size, 1.0, "half")


def several(store):
    """All that needs a group, in one group."""
    soft = student(SOFT, store, 2)
    resumed = student(SOFT, store, 2, soft[0][1] if Ranks.here().is_first else None)
    muon = student(MUON, store, 2)
    muon_resumed = student(MUON, store, 2, muon[0][1] if Ranks.here().is_first else None)
    fixed = student(FIXED, store, 2)
    return normed(Ranks.here()), soft, student(HARD, store, 2), resumed, muon, muon_resumed, fixed


# -- tests -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def two(store):
    student(HARD, store)  # indexes the set
    return on_ranks(2, several, store)


def test_shared_batch_norm_is_that_of_the_whole_batch(two):
    output, images, gradients, state, scored = normed(ALONE)
    for rank, (process, *_) in enumerate(two):
        torch.testing.assert_close(process[0], output[rank::2], rtol=0, atol=1e-5)
        torch.testing.assert_close(process[1], images[rank::2], rtol=0, atol=1e-5)
        torch.testing.assert_close(process[2], gradients, rtol=0, atol=1e-4)
        torch.testing.assert_close(process[3], state, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(process[4], scored[rank::2], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("place", "changes"), [(1, SOFT), (2, HARD), (6, FIXED)])
def test_students_of_one_and_of_two_agree(two, store, place, changes):
    snapshots, (result,) = student(changes, store)
    first, second = (process[place] for process in two)
    assert second == ([], [])  # the first process yields for all
    assert first[1][0].top1_best == pytest.approx(result.top1_best, abs=0.02)
    assert [point["epoch"] for point in first[1][0].curve] == [2, 4]
    for one, other in zip(result.curve, first[1][0].curve, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert len(first[0]) == len(snapshots) == 3
    weights, others = unpack(snapshots[1])[0], unpack(first[0][1])[0]
    assert weights.keys() == others.keys()  # so that either goes on from the other's
    torch.testing.assert_close(others, weights, rtol=0, atol=1e-4)


def test_interrupted_student_of_two_is_the_same(two):
    for whole, resumed in ((1, 3), (4, 5)):
        snapshots, results = two[0][whole]
        assert two[0][resumed] == (snapshots[2:], results)


def test_several_learn_the_temperature_that_one_learns(two, store):
    snapshots, _ = student(MUON, store)
    values, others = (
        [float(unpack(data)[0]["loss.log_ratio"]) for data in found] for found in (snapshots, two[0][4][0])
    )
    assert all(abs(value) > 0.005 for value in values)
    assert others == pytest.approx(values, abs=1e-3)


def test_parts_of_accumulated_gradients_are_those_of_the_whole():
    for size, count in ((15, 2), (5, 2), (7, 3), (4, 8), (6, 1)):
        parts = part_rows(size, count)
        shared = [part_rows(size, count, Ranks(rank, 2)) for rank in range(2)]
        for place, part in enumerate(parts):
            assert sorted(row for process in shared for row in process[place]) == list(part)


def test_more_workers_than_images_of_a_step_are_refused(store):
    config = override(recipe("digits"), {**CHANGES, "evaluate.workers": 3})
    index, ref = load_index(config, ArtifactStore(store), lambda done, total: None)
    with pytest.raises(ConfigError, match=r"evaluate\.workers=3: .* 2 images .*; lower evaluate\.workers"):
        plan_from(config, index, ref)
    assert plan_from(override(config, {"evaluate.workers": 2}), index, ref)
    # A batch of 67 in parts of 2 and 3, and one of 3 in one part.
    changes = {"ipc": 7, "relabel.batch_size": 67, "evaluate.accumulate": 30, "evaluate.workers": 3}
    with pytest.raises(ConfigError, match=r"evaluate\.workers=3: .* 2 images"):
        plan_from(override(config, changes), index, ref)


def test_dropout_is_refused_for_several_workers(store):
    students = {"evaluate.students": ("mobilenet_v2",), "evaluate.full_data": False}
    config = override(recipe("digits"), {**CHANGES, **students, "evaluate.workers": 2})
    index, _ = load_index(config, ArtifactStore(store), lambda done, total: None)
    with pytest.raises(ConfigError, match=r"evaluate\.workers=2: the score of mobilenet_v2, which has dropout"):
        check(config, index)
    check(override(config, {"evaluate.workers": 1}), index)


def test_workers_change_no_key(store):
    plans = []
    for workers in (1, 2):
        config = override(recipe("digits"), {**CHANGES, "evaluate.workers": workers})
        plans.append(plan_from(config, *load_index(config, ArtifactStore(store), lambda done, total: None)))
    one, two = ({stage: plan.refs(stage) for stage in plan.tasks} for plan in plans)
    assert one == two
    assert [unit.params for unit in plans[0].units("evaluate")] == [unit.params for unit in plans[1].units("evaluate")]


@pytest.mark.parametrize(("name", "answer"), [("resnet18", False), ("convnet3", False), ("mobilenet_v2", True)])
def test_networks_with_dropout_are_known(name, answer):
    assert draws(build_model(name, 10, 64)) is answer
