"""Errors of the released code that cost its users most, by their numbers in our list: none can happen here."""

import argparse
import dataclasses
import io

import pytest
import torch
from PIL import Image

from wmdd.config.distill import DistillConfig, override
from wmdd.config.recipes import recipe
from wmdd.config.recovery import RecoverConfig
from wmdd.config.students import RelabelConfig
from wmdd.data.decoding.pixels import png, to_image, to_tensor
from wmdd.data.scan import build_index
from wmdd.engine.plan import plan_from
from wmdd.method.label_batches import draw_epoch
from wmdd.method.losses import feature_loss
from wmdd.method.moments import Moments
from wmdd.method.soft_labels import LabelBlock, SoftLabels
from wmdd.models.registry import build_model
from wmdd.report.scores import _summary
from wmdd.seeding import SeedTree
from wmdd.stages.evaluate import StudentResult
from wmdd.storage.store import ArtifactRef


@pytest.fixture(scope="module")
def plan():
    index = build_index("builtin:digits")
    return lambda **changes: plan_from(override(recipe("digits"), changes), index, ArtifactRef("index", "index", "i"))


def test_b02_checkpoint_with_its_command_line_loads(tmp_path):
    from wmdd.models.weights import load_weights

    with SeedTree(0).scoped():
        theirs, ours = build_model("convnet2_w16", 5, 16), build_model("convnet2_w16", 5, 16)
    torch.save({"model": theirs.state_dict(), "args": argparse.Namespace(lr=0.1, model="x")}, tmp_path / "model.pth")
    load_weights(ours, str(tmp_path / "model.pth"), "convnet2_w16")
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"pretrain.lr": 0.01},
        {"pretrain.model": "convnet2"},
        {"data.image_size": 8},
        {"pretrain.epochs": 3},
    ],
)
def test_b03_barycenter_of_another_teacher_is_unused(plan, change):
    assert not set(plan().refs("barycenter")) & set(plan(**change).refs("barycenter"))


def test_b03_barycenter_is_shared_if_nothing_differs(plan):
    assert plan().refs("barycenter") == plan(**{"recover.bn_weight": 7.0, "relabel.epochs": 9}).refs("barycenter")


@pytest.mark.parametrize("classes", [1, 3, 10])
def test_b05_gradient_is_independent_of_other_classes(classes):
    features = torch.randn(10, 4, 8, generator=SeedTree(0).torch())
    support, weights = torch.zeros(10, 4, 8), torch.full((10, 4), 0.25)

    def gradient(count):
        part = features[:count].clone().requires_grad_(True)
        feature_loss(part, support[:count], weights[:count], "rms").sum().backward()
        return part.grad[0]

    torch.testing.assert_close(gradient(classes), gradient(1))


@pytest.mark.parametrize("ipc", [6, 11, 16, 33, 101])
def test_b06_groups_cover_every_class_once(plan, ipc):
    made = plan(**{"ipc": ipc, "recover.classes_per_batch": 0})
    groups = [[unit.params.class_id for unit in task.units] for task in made.tasks["recover"]]
    assert [class_id for group in groups for class_id in group] == list(range(10))
    assert max(map(len, groups)) * ipc <= max(100, ipc)


def test_b07_all_random_numbers_come_from_the_seed():
    with SeedTree(1).scoped():
        first = [batch.views.box for batch in draw_epoch(RelabelConfig(), 0, 200, 32, SeedTree(5))]
    with SeedTree(2).scoped():
        again = [batch.views.box for batch in draw_epoch(RelabelConfig(), 0, 200, 32, SeedTree(5))]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_b10_images_are_kept_as_they_were_optimised():
    image = torch.randint(0, 256, (3, 32, 32), generator=SeedTree(0).torch(), dtype=torch.uint8)
    assert torch.equal(to_tensor(Image.open(io.BytesIO(png(to_image(image))))), image)


def test_b12_curriculum_is_on_when_it_is_asked_for():
    from wmdd.method.draws import _scales

    low, _ = _scales(RecoverConfig(curriculum="cosine", iterations=10))
    assert low[0, 0] == 1.0 > low[-1, 0]


def test_b14_file_that_lacks_a_layer_is_refused(tmp_path):
    from wmdd.errors import ConfigError
    from wmdd.models.weights import load_weights

    with SeedTree(0).scoped():
        network = build_model("resnet18", 5, 32)
    state = {key: value for key, value in network.state_dict().items() if "downsample" not in key}
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match="it lacks"):
        load_weights(network, str(tmp_path / "model.pth"), "resnet18")


def test_variances_are_independent_of_batch_size():
    values = torch.randn(60, 4, 2, 2, generator=SeedTree(0).torch()) + torch.arange(60.0)[:, None, None, None]
    for size in (1, 7, 60):
        first, *rest = [Moments.of(part) for part in values.split(size)]
        for part in rest:
            first = first.merge(part)
        torch.testing.assert_close(first.var, values.double().var(dim=(0, 2, 3), correction=0))


@pytest.fixture
def labels():
    section = RelabelConfig(epochs=4, batch_size=3)
    batches = [batch for epoch in range(4) for batch in draw_epoch(section, epoch, 6, 8, SeedTree(0))]
    logits = [torch.full((3, 5), float(10 * batch.epoch + batch.batch)).half() for batch in batches]
    made = [dataclasses.replace(batch, logits=own) for batch, own in zip(batches, logits, strict=True)]
    meta = {"schema": 1, "first_epoch": 0, "epochs": 4, "batches": 2, "classes": 5}
    return SoftLabels([LabelBlock.write(made, meta)])


def test_b21_labels_are_read_in_any_order_with_workers(labels):
    places = [(3, 1), (0, 0), (2, 1), (0, 1)]
    loader = torch.utils.data.DataLoader(
        labels, sampler=places, batch_size=None, num_workers=2, multiprocessing_context="spawn"
    )
    read = [(batch.epoch, batch.batch, float(batch.logits[0, 0])) for batch in loader]
    assert read == [(epoch, batch, 10.0 * epoch + batch) for epoch, batch in places]


def test_b22_epoch_left_early_changes_no_other(labels):
    next(iter(labels.epoch(0)))
    assert [batch.epoch for batch in labels.epoch(2)] == [2, 2]


@pytest.mark.parametrize("block", [1, 3, 50])
def test_b24_b32_label_epochs_are_made_once(plan, block):
    made = plan(**{"relabel.epochs": 100, "relabel.epochs_per_block": block, "evaluate.baselines": ()})
    epochs = [
        epoch
        for unit in made.units("relabel")
        for epoch in range(unit.params.first_epoch, unit.params.first_epoch + unit.params.epochs)
    ]
    assert epochs == list(range(100))
    assert len(set(made.refs("relabel"))) == -(-100 // block)


def test_b27_last_and_best_epoch_are_both_kept():
    curves = {0: (0.2, 0.6, 0.4), 1: (0.1, 0.3, 0.5)}
    results = [
        StudentResult("net", "distilled", seed, curve[-1], max(curve), (), "wmdd", "hash")
        for seed, curve in curves.items()
    ]
    found = _summary(results)
    assert (found["top1_last_mean"], found["top1_best_mean"]) == (pytest.approx(0.45), pytest.approx(0.55))
    assert [(run["top1_last"], run["top1_best"]) for run in found["runs"]] == [(0.4, 0.6), (0.5, 0.5)]


def test_b26_validation_batch_size_is_an_option(plan):
    assert DistillConfig().evaluate.val_batch_size == 0  # as many as fit
    scores = plan(**{"relabel.batch_size": 2}).refs("evaluate")
    assert scores == plan(**{"relabel.batch_size": 2, "evaluate.val_batch_size": 1}).refs("evaluate")
