"""The method's arithmetic: closed forms, invariance under regrouping, agreement with slow and obvious versions."""

import dataclasses
import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from wmdd.config import RecoverConfig, RelabelConfig, RuntimeConfig
from wmdd.data.augment import (
    apply_mix,
    apply_views,
    draw_mix_box,
    draw_resized_crops,
    draw_shifts,
    view_matrices,
)
from wmdd.data.normalization import NORMALIZATIONS
from wmdd.errors import DivergedError
from wmdd.labels import LabelBlock, SoftLabels, batches_per_epoch, draw_epoch
from wmdd.losses import batch_norm_loss, cross_entropy_loss, feature_loss, soft_label_loss
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.moments import Moments
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.synthesis import Recovered, Target, recover_images
from wmdd.training import Schedule
from wmdd.types import Barycenter, ClassStatistics, Teacher

CPU = Runtime.create(RuntimeConfig(device="cpu", precision="fp32", compile="off"))


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 29), max_size=5), offset=st.sampled_from([0.0, 1e3, 1e6]), seed=st.integers(0, 50))
def test_moments_of_any_split_merge_to_those_of_the_whole(cuts, offset, seed):
    values = torch.randn(30, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset
    edges = [0, *sorted(set(cuts)), 30]
    merged = None
    for low, high in itertools.pairwise(edges):
        part = Moments.of(values[low:high])
        merged = part if merged is None else merged.merge(part)
    flat = values.transpose(0, 1).flatten(1).numpy()
    assert merged.count == flat.shape[1]
    np.testing.assert_allclose(merged.mean, flat.mean(1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.var, flat.var(1), rtol=1e-8)


def test_moments_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        Moments(2, torch.tensor([float("nan")]), torch.ones(1))


def slow_view(image, box, flip, roll, target):
    top, left, height, width = box
    cut = image[None, :, top : top + height, left : left + width]
    seen = F.interpolate(cut, size=(target, target), mode="bilinear", align_corners=False)[0]
    seen = seen.flip(-1) if flip else seen
    return seen.roll((int(roll[0]), int(roll[1])), (-2, -1))


@pytest.mark.parametrize(("source", "target"), [((16, 16), 16), ((12, 20), 24)])
def test_views_equal_cutting_resizing_flipping_and_rolling_each_image(source, target):
    images = torch.rand(40, 3, *source, generator=SeedTree(0).torch())
    views = draw_resized_crops(SeedTree(0).numpy(), 40, source, (0.08, 1.0), flip=True, roll_px=5)
    shown = apply_views(images, *view_matrices(views, source, target))
    for i in range(40):
        expected = slow_view(images[i], views.box[i].tolist(), bool(views.flip[i]), views.roll[i], target)
        torch.testing.assert_close(shown[i], expected, atol=1e-5, rtol=0)


def test_shifts_repeat_the_edge():
    images = torch.rand(30, 3, 9, 9, generator=SeedTree(1).torch())
    views = draw_shifts(SeedTree(1).numpy(), 30, (9, 9), 3, flip=False)
    shown = apply_views(images, *view_matrices(views, (9, 9), 9))
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    for i, (top, left, _, _) in enumerate(views.box.tolist()):
        torch.testing.assert_close(shown[i], padded[i, :, 3 + top : 12 + top, 3 + left : 12 + left])
    assert views.box[:, 0].unique().tolist() == list(range(-3, 4))


def test_crops_lie_inside_with_the_asked_area_and_ratio():
    box = draw_resized_crops(SeedTree(2).numpy(), 4000, (64, 64), (0.2, 0.5), flip=True).box.double()
    area, ratio = box[:, 2] * box[:, 3] / 64**2, box[:, 3] / box[:, 2]
    assert (box[:, 0] + box[:, 2]).max() <= 64
    assert (box[:, 1] + box[:, 3]).max() <= 64
    assert box.min() >= 0
    assert area.min() > 0.18
    assert area.max() < 0.53
    assert area.mean().item() == pytest.approx(0.35, abs=0.01)
    assert ratio.min() > 0.7
    assert ratio.max() < 1.43


def test_mix_pastes_the_partner_box():
    images = torch.rand(4, 3, 6, 6, generator=SeedTree(3).torch())
    partner = torch.tensor([2, 3, 0, 1])
    mixed = apply_mix(images, partner, (1, 2, 4, 6))
    expected = images.clone()
    for i in range(4):
        expected[i, :, 1:4, 2:6] = images[partner[i], :, 1:4, 2:6]
    assert torch.equal(mixed, expected)
    boxes = [draw_mix_box(SeedTree(i).numpy(), 32, 1.0) for i in range(300)]
    assert all(0 <= t <= b <= 32 and 0 <= left <= r <= 32 for t, left, b, r in boxes)
    assert 0.2 < np.mean([(b - t) * (r - left) / 32**2 for t, left, b, r in boxes]) < 0.5


def test_ten_times_the_feature_loss_has_the_released_gradient_at_a_hundred_images():
    features = torch.randn(1, 100, 8, generator=SeedTree(4).torch(), requires_grad=True)
    support = torch.randn(1, 100, 8, generator=SeedTree(5).torch())
    (10 * feature_loss(features, support, torch.full((1, 100), 0.01), "rms")).sum().backward()
    ours, features.grad = features.grad, None
    torch.linalg.matrix_norm((features - support)[0]).backward()
    torch.testing.assert_close(ours, features.grad)


def test_losses_of_a_class_do_not_depend_on_its_group():
    generator = SeedTree(6).torch()
    inputs = torch.randn(3 * 4, 5, 6, 6, generator=generator, requires_grad=True)
    mean, var = torch.randn(3, 5, generator=generator), torch.rand(3, 5, generator=generator)
    weights = torch.rand(3, 4, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    batch_norm_loss(inputs, mean, var, weights).sum().backward()
    alone = inputs.detach()[4:8].clone().requires_grad_(True)
    batch_norm_loss(alone, mean[1:2], var[1:2], weights[1:2]).sum().backward()
    torch.testing.assert_close(alone.grad, inputs.grad[4:8])


def test_batch_norm_loss_equals_the_obvious_moments():
    inputs = torch.randn(2 * 3, 5, 4, 4, generator=SeedTree(7).torch()) + 2
    mean, var = torch.full((2, 5), 1.5), torch.full((2, 5), 0.7)
    for c, got in enumerate(batch_norm_loss(inputs, mean, var, torch.full((2, 3), 1 / 3))):
        own = inputs[3 * c : 3 * c + 3].transpose(0, 1).flatten(1)
        expected = (own.mean(1) - mean[c]).norm() + (own.var(1, correction=0) - var[c]).norm()
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_weights_of_images_act_as_repetitions():
    inputs = torch.randn(3, 5, 4, 4, generator=SeedTree(8).torch())
    mean, var = torch.zeros(1, 5), torch.ones(1, 5)
    weighted = batch_norm_loss(inputs, mean, var, torch.tensor([[0.5, 0.25, 0.25]]))
    repeated = batch_norm_loss(inputs[[0, 0, 1, 2]], mean, var, torch.full((1, 4), 0.25))
    torch.testing.assert_close(weighted, repeated)


def test_losses_at_the_optimum_have_finite_gradients():
    features = torch.zeros(1, 2, 3, requires_grad=True)
    inputs = torch.zeros(2, 3, 2, 2, requires_grad=True)
    loss = feature_loss(features, torch.zeros(1, 2, 3), torch.full((1, 2), 0.5), "rms")
    loss = loss + batch_norm_loss(inputs, torch.zeros(1, 3), torch.zeros(1, 3), torch.full((1, 2), 0.5))
    loss.sum().backward()
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(inputs.grad).all()


def test_cross_entropy_is_one_mean_per_class():
    logits = torch.randn(6, 4, generator=SeedTree(9).torch())
    got = cross_entropy_loss(logits, torch.tensor([2, 0]), 3)
    torch.testing.assert_close(got[1], F.cross_entropy(logits[3:], torch.zeros(3, dtype=torch.long)))


def test_soft_label_loss_is_the_batch_mean_divergence_without_squared_temperature():
    student, teacher = torch.randn(2, 7, 5, generator=SeedTree(10).torch())
    got = soft_label_loss(student, teacher, torch.ones(7), 20.0)
    expected = F.kl_div((student / 20).log_softmax(1), (teacher / 20).softmax(1), reduction="batchmean")
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-7)
    assert soft_label_loss(teacher, teacher, torch.ones(7), 20.0).abs() < 1e-7


def test_schedule_warms_up_and_ends_near_zero():
    schedule = Schedule(1.0, 100, warmup=10)
    assert schedule.at(0) == pytest.approx(0.1)
    assert schedule.at(10) == pytest.approx(1.0)
    assert 0 < schedule.at(99) < 0.001
    assert Schedule(1.0, 100, stretch=2.0).at(100) == pytest.approx(0.5)


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


def recovered(teacher, classes, seed=0, **options):
    section = RecoverConfig(**{"iterations": 3, "roll_px": 2, "lr": 0.1, **options})
    *_, last = recover_images(section, teacher, [target_of(teacher, c, seed) for c in classes], CPU)
    assert isinstance(last, Recovered)
    return {c: last.images[i] for i, c in enumerate(classes)}, last.losses


def test_recovery_repeats_bit_for_bit_and_changes_with_the_seed(teacher):
    first, again, other = (recovered(teacher, [0, 1], seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_class_alone_equals_the_class_in_a_group_within_rounding(teacher):
    grouped, alone, shuffled = (recovered(teacher, group)[0] for group in ([0, 1, 2, 3], [2], [3, 2, 0]))
    for other in (alone, shuffled):
        difference = (grouped[2].int() - other[2].int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.01


def test_losses_of_recovery_fall(teacher):
    losses = recovered(teacher, [0, 1], iterations=100)[1]
    assert losses.shape == (2, 50, 3)
    assert (losses[:, -5:, :2].mean(1) < 0.7 * losses[:, 0, :2]).all()


def test_no_iterations_give_the_real_start_back(teacher):
    start = torch.randint(0, 256, (IPC, 3, SIZE, SIZE), generator=SeedTree(1).torch(), dtype=torch.uint8)
    target = target_of(teacher, 0, start=start)
    (last,) = recover_images(RecoverConfig(iterations=0), teacher, [target], CPU)
    assert torch.equal(last.images[0], start)


def test_compiled_recovery_agrees_over_a_few_steps(teacher):
    compiled = dataclasses.replace(CPU, compile=True)
    section = RecoverConfig(iterations=3, roll_px=2, lr=0.1)
    runs = [list(recover_images(section, teacher, [target_of(teacher, 0)], runtime))[-1] for runtime in (CPU, compiled)]
    torch.testing.assert_close(runs[0].losses, runs[1].losses, rtol=1e-3, atol=1e-3)


def test_diverged_recovery_says_so(teacher):
    huge = target_of(teacher, 0)
    weights = {name: value * 1e18 for name, value in teacher.weights.items() if value.is_floating_point()}
    broken = dataclasses.replace(teacher, weights={**teacher.weights, **weights})
    with pytest.raises(DivergedError, match=r"not finite.*lower recover\.lr"):
        list(recover_images(RecoverConfig(iterations=10), broken, [huge], CPU))


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_normalization_and_back_changes_no_pixel(name):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    constants = NORMALIZATIONS[name]
    assert torch.equal(constants.denormalize(constants.normalize(pixels)), pixels)
    low, high = constants.bounds(torch.zeros(1))
    assert constants.normalize(pixels).amin(dim=(0, 2, 3)).tolist() == pytest.approx(low.flatten().tolist())
    assert constants.normalize(pixels).amax(dim=(0, 2, 3)).tolist() == pytest.approx(high.flatten().tolist(), abs=1e-5)


def labelled(section, images=10, classes=7, first=0, epochs=2):
    meta = {"schema": 1, "first_epoch": first, "epochs": epochs, "classes": classes}
    meta["batches"] = batches_per_epoch(section, images)
    batches = []
    for epoch in range(first, first + epochs):
        for batch in draw_epoch(section, epoch, images, SIZE, SeedTree(0)):
            logits = torch.randn(len(batch.images), classes, generator=SeedTree(epoch).torch()).half()
            batches.append(dataclasses.replace(batch, logits=logits))
    return batches, LabelBlock.write(batches, meta)


def same(a, b):
    fields = (
        (a.images, a.partner, a.logits, a.views.box, a.views.flip),
        (b.images, b.partner, b.logits, b.views.box, b.views.flip),
    )
    return (a.epoch, a.batch, a.box) == (b.epoch, b.batch, b.box) and all(map(torch.equal, *fields))


def identity(item):
    return item


def test_label_blocks_give_back_what_was_written_in_any_order_and_in_workers():
    section = RelabelConfig(batch_size=4)
    first, block = labelled(section)
    second, later = labelled(section, first=2, epochs=1)
    labels = SoftLabels([later, LabelBlock.from_bytes(block.data)])
    assert (labels.epochs, labels.batches, len(labels)) == (3, 2, 6)
    assert all(map(same, first[2:4], labels.epoch(1)))
    assert all(map(same, second, labels.epoch(2)))
    places = [(2, 1), (0, 0), (1, 1)]
    loader = torch.utils.data.DataLoader(labels, sampler=places, batch_size=None, collate_fn=identity, num_workers=2)
    assert all(map(same, (labels[place] for place in places), loader))


def test_an_epoch_shows_every_image_once():
    section = RelabelConfig(batch_size=5)
    rows = torch.cat([batch.images for batch in draw_epoch(section, 3, 10, SIZE, SeedTree(0))])
    assert sorted(rows.tolist()) == list(range(10))


def test_missing_epochs_are_refused():
    with pytest.raises(Exception, match="not each epoch once"):
        SoftLabels([labelled(RelabelConfig(batch_size=4), first=2)[1]])
