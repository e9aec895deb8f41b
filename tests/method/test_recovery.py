"""Recovery of images on a tiny untrained teacher: what a class's images depend on, and what they do not."""

import dataclasses
import gc
import re

import numpy as np
import pytest
import torch
from builders import CPU

from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.config.recovery import RecoverConfig
from wmdd.data.views import apply_views, draw_resized_crops, view_matrices
from wmdd.errors import DivergedError
from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.draws import _scales, draw
from wmdd.method.losses import batch_norm_loss, cross_entropy_loss, feature_loss
from wmdd.method.moments import Moments
from wmdd.method.objective import term_weights
from wmdd.method.recovery import Recovered, Target, recover_images
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.outputs import Progress
from wmdd.runtime.compilation import ON
from wmdd.seeding import SeedTree

SIZE, CLASSES, IPC = 16, 4, 2
FEW = RecoverConfig(iterations=3, roll_px=2, lr=0.1)


@pytest.fixture(scope="module")
def teacher():
    with SeedTree(0).scoped():
        network = build_model("convnet3_w16", CLASSES, SIZE)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    return Teacher("convnet3_w16", "auto", weights, tuple("abcd"), 0.25, SIZE, 1.0, "imagenet")


def target(teacher, class_id, *, seed=0, start=None, ipc=IPC):
    """A class of soft coloured images, whose features and moments other images can reach."""
    shade = SeedTree(class_id).child("shade").torch()
    images = 0.5 * torch.randn(12, 3, SIZE, SIZE, generator=shade) + torch.randn(1, 3, 1, 1, generator=shade)
    with Probe(teacher.network, CLASSES) as probe, torch.no_grad():
        _, features, inputs = probe.run(images)
    statistics = ClassStatistics(class_id, features, tuple(map(Moments.of, inputs)))
    mass = torch.arange(1.0, ipc + 1) / sum(range(1, ipc + 1))
    barycenter = Barycenter(class_id, features[:ipc], mass, torch.arange(ipc), (1.0,), True, (0.0,) * 5)
    return Target(statistics, barycenter, SeedTree(seed).child("recover", class_id), start)


def recover(teacher, class_ids, section=FEW, **options):
    """Images and losses by class id."""
    *_, last = recover_images(section, teacher, [target(teacher, c, **options) for c in class_ids], CPU)
    assert isinstance(last, Recovered)
    return {c: (last.images[i], last.losses[i]) for i, c in enumerate(class_ids)}


def test_recovery_twice_gives_the_same_bytes(teacher):
    first, again = (recover(teacher, [0, 3]) for _ in range(2))
    for c in first:
        assert torch.equal(first[c][0], again[c][0])
        assert torch.equal(first[c][1], again[c][1])


def test_compiled_recovery_agrees_over_a_few_steps():
    small, compiled = untrained_teacher("convnet1_w8", 8, 2), dataclasses.replace(CPU, compilation=ON)
    runs = [list(recover_images(FEW, small, random_targets(small, 3), runtime))[-1] for runtime in (CPU, compiled)]
    torch.testing.assert_close(runs[0].losses, runs[1].losses, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("change", [{}, {"bn_target": "global"}, {"feature_loss": "transport"}], ids=str)
def test_recovery_in_bf16_is_near_to_that_in_float32(teacher, change):
    section, targets = FEW.model_copy(update=change), [target(teacher, c) for c in (0, 3)]
    first = []
    for bf16 in (True, False):
        *_, last = recover_images(section, teacher, targets, dataclasses.replace(CPU, bf16=bf16))
        assert isinstance(last, Recovered)
        first.append(last.losses[:, 0])
    torch.testing.assert_close(*first, rtol=0.05, atol=0.05)
    assert all(weight.dtype == torch.float32 for weight in teacher.network.parameters())  # its copy is rounded


def test_recovery_from_another_seed_gives_other_images(teacher):
    assert not torch.equal(recover(teacher, [0])[0][0], recover(teacher, [0], seed=1)[0][0])


def test_recovery_ignores_the_global_generators(teacher):
    with SeedTree(11).scoped():
        first = recover(teacher, [1])[1][0]
    with SeedTree(12).scoped():
        assert torch.equal(recover(teacher, [1])[1][0], first)


CHANGES = [{"feature_loss": "rms"}, {"feature_loss": "squared"}, {"feature_loss": "transport"}, {"mix": "cutmix"}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_class_does_not_depend_on_its_group_and_order(teacher, change):
    section = FEW.model_copy(update=change)
    images, losses = recover(teacher, [0, 1, 2, 3], section)[2]
    for group in ([2], [0, 2], [2, 0], [3, 1, 2, 0]):
        other_images, other_losses = recover(teacher, group, section)[2]
        assert (images.int() - other_images.int()).abs().max() <= 1
        torch.testing.assert_close(losses, other_losses, rtol=1e-4, atol=1e-5)


def test_losses_fall(teacher):
    section = RecoverConfig(iterations=60, roll_px=1, lr=0.1, crop_scale=(0.5, 1.0))
    weights = torch.tensor([section.feature_weight, section.bn_weight, section.ce_weight])
    for _, losses in recover(teacher, [0, 1], section).values():
        total = losses @ weights
        assert total[-3:].mean() < 0.8 * total[:3].mean()


@pytest.mark.parametrize("tiles", [1, 2])
def test_transport_falls_when_it_is_the_only_term(teacher, tiles):
    only = {"feature_loss": "transport", "transport_sample": 8, "bn_weight": 0.0, "ce_weight": 0.0, "tiles": tiles}
    section = RecoverConfig(iterations=40, flip=False, roll_px=0, lr=0.05, crop_scale=(1.0, 1.0), **only)
    for images, losses in recover(teacher, [1, 2], section, ipc=IPC * tiles**2).values():
        assert len(images) == IPC
        assert losses[-5:, 0].mean() < 0.9 * losses[:5, 0].mean()  # of other samples in each step


def test_parts_of_a_target_draw_samples_of_their_own(teacher):
    section, whole = FEW.model_copy(update={"feature_loss": "transport", "transport_sample": 4}), target(teacher, 0)
    parts = [whole.part(slice(row, row + 1), row) for row in range(IPC)]
    first, second = (draw(section, [part.statistics], [part.seeds], 1, SIZE, CPU).sample for part in parts)
    assert not torch.equal(first, second)
    *_, last = recover_images(section.model_copy(update={"bn_target": "global"}), teacher, parts[:1], CPU)
    assert torch.isfinite(last.losses).all()


FIELDS = {
    "feature": "feature_weight",
    "batch_norm": "bn_weight",
    "cross_entropy": "ce_weight",
    "total_variation": "tv_weight",
    "l2": "l2_weight",
}


@pytest.mark.parametrize("term", FIELDS)
def test_b04_each_term_falls_when_it_is_the_only_one(teacher, term):
    only = {name: float(key == term) for key, name in FIELDS.items()}
    section = RecoverConfig(iterations=40, flip=False, roll_px=0, lr=0.05, crop_scale=(1.0, 1.0), **only)
    ((_, losses),) = recover(teacher, [1], section).values()
    falls = losses[:, list(term_weights(section)).index(term)]
    # Without random views the descent is steady; an untrained head's cross-entropy has little room to fall.
    assert falls[-1] < (0.995 if term == "cross_entropy" else 0.9) * falls[0]
    assert (falls[10::10] < falls[:-10:10]).all()


def test_first_losses_are_those_of_the_first_view(teacher):
    chosen = target(teacher, 2)
    *_, last = recover_images(FEW, teacher, [chosen], CPU)
    start = torch.randn(IPC, 3, SIZE, SIZE, generator=chosen.seeds.child("noise").torch())
    rng = chosen.seeds.child("views").numpy()
    view = draw_resized_crops(rng, 3, (SIZE, SIZE), FEW.crop_scale, flip=True, roll_px=FEW.roll_px)[0:1]
    rows, columns = view_matrices(view, (SIZE, SIZE), SIZE)
    mass = chosen.barycenter.mass[None]
    with Probe(teacher.network, CLASSES) as probe, torch.no_grad():
        logits, features, inputs = probe.run(apply_views(start[None], rows, columns)[0])
    feature = feature_loss(features[None], chosen.barycenter.support[None], mass, "rms")
    batch_norm = sum(
        batch_norm_loss(layer, moments.mean.float()[None], moments.var.float()[None], mass)
        for layer, moments in zip(inputs, chosen.statistics.moments, strict=True)
    )
    expected = torch.cat([feature, batch_norm, cross_entropy_loss(logits, torch.tensor([2]), IPC)])
    torch.testing.assert_close(last.losses[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_first_batch_norm_layer_can_weigh_more(teacher):
    once, thrice, never = (
        recover(teacher, [0], FEW.model_copy(update={"first_bn_multiplier": factor}))[0][1][0, 1]
        for factor in (1, 3, 0)
    )
    torch.testing.assert_close(thrice - once, 2 * (once - never), rtol=1e-4, atol=1e-5)


def real_start(ipc=IPC):
    return torch.randint(0, 256, (ipc, 3, SIZE, SIZE), generator=SeedTree(5).torch(), dtype=torch.uint8)


def test_no_iterations_keep_the_real_start_exactly(teacher):
    images, losses = recover(teacher, [0], RecoverConfig(iterations=0), start=real_start())[0]
    assert torch.equal(images, real_start())
    assert losses.shape == (0, 3)


def test_terms_without_weight_move_no_pixel(teacher):
    section = FEW.model_copy(update={"feature_weight": 0.0, "bn_weight": 0.0, "ce_weight": 0.0})
    assert torch.equal(recover(teacher, [0], section, start=real_start())[0][0], real_start())


def test_steps_move_a_real_start(teacher):
    images, _ = recover(teacher, [0], start=real_start())[0]
    moved = (images.int() - real_start().int()).abs()
    assert moved.max() > 0
    # Three steps of Adam at 0.1 move a pixel by less than 0.3 normalised units, here 0.3 * 0.229 * 255.
    assert moved.max() <= 18


@pytest.mark.parametrize(("iterations", "records"), [(1, 1), (49, 49), (50, 50), (60, 30)])
def test_losses_are_recorded_at_most_fifty_times(teacher, iterations, records):
    section = FEW.model_copy(update={"iterations": iterations})
    images, losses = recover(teacher, [0], section, ipc=1)[0]
    assert losses.shape == (records, len(term_weights(FEW)))
    assert torch.isfinite(losses).all()
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (1, 3, SIZE, SIZE))


def test_progress_rises_to_the_end(teacher):
    section = FEW.model_copy(update={"iterations": 20})
    *events, last = recover_images(section, teacher, [target(teacher, 0)], CPU)
    assert isinstance(last, Recovered)
    assert all(isinstance(item, Progress) and item.total == 20 for item in events)
    assert [item.done for item in events] == [0, 5, 10, 15]


def test_recovery_leaves_no_network_and_no_images_in_memory(teacher):
    """A cycle would wait for the collector, and a GPU be full meanwhile."""
    recover(teacher, [0])
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(item, (torch.nn.Module, torch.Tensor)) for item in gc.get_objects())
        recover(teacher, [0])
        after = sum(isinstance(item, (torch.nn.Module, torch.Tensor)) for item in gc.get_objects())
    finally:
        gc.enable()
    assert after == before


def test_recovery_leaves_the_teacher_as_it_was(teacher):
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    recover(teacher, [0, 1])
    assert all(torch.equal(value, before[key]) for key, value in teacher.network.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.network.parameters())
    assert sum(len(module._forward_pre_hooks) for module in teacher.network.modules()) == 0


def far_atoms(target):
    barycenter = dataclasses.replace(target.barycenter, support=torch.full_like(target.barycenter.support, 1e30))
    return dataclasses.replace(target, barycenter=barycenter)


def huge_variance(target):
    first, *others = target.statistics.moments
    moments = (Moments(first.count, first.mean, first.var * 1e30), *others)
    return dataclasses.replace(target, statistics=dataclasses.replace(target.statistics, moments=moments))


@pytest.mark.parametrize("spoil", [far_atoms, huge_variance])
def test_divergence_of_one_class_leaves_the_others(teacher, spoil):
    *_, sound = recover_images(FEW, teacher, [target(teacher, 0), target(teacher, 1)], CPU)
    *_, spoilt = recover_images(FEW, teacher, [target(teacher, 0), spoil(target(teacher, 1))], CPU)
    assert sound.diverged == {}
    assert list(spoilt.diverged) == [1]
    assert re.search(r"not finite at step 0 of 3; lower recover\.lr", spoilt.diverged[1])
    assert torch.equal(spoilt.images[0], sound.images[0])
    assert torch.equal(spoilt.losses[0], sound.losses[0])


@pytest.mark.parametrize("spoil", [far_atoms, huge_variance])
def test_divergence_of_all_classes_stops_at_once(teacher, spoil):
    events = recover_images(FEW, teacher, [spoil(target(teacher, 0)), spoil(target(teacher, 1))], CPU)
    with pytest.raises(DivergedError, match=r"not finite at step 0 of 3; lower recover\.lr"):
        next(events)


def test_priors_that_weigh_nothing_are_no_terms():
    assert list(term_weights(FEW)) == ["feature", "batch_norm", "cross_entropy"]
    assert term_weights(RecoverConfig(tv_weight=2.0))["total_variation"] == 2.0


def test_global_statistics_are_matched_by_all_images(teacher):
    section = FEW.model_copy(update={"bn_target": "global", "feature_weight": 0.0, "ce_weight": 0.0, "flip": False})
    section = section.model_copy(update={"roll_px": 0, "crop_scale": (1.0, 1.0), "iterations": 1})
    recovered = recover(teacher, [0, 3], section)
    noise = [torch.randn(IPC, 3, SIZE, SIZE, generator=target(teacher, c).seeds.child("noise").torch()) for c in (0, 3)]
    layers = [module for module in teacher.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    masses = torch.cat([target(teacher, c).barycenter.mass for c in (0, 3)]) / 2
    expected, seen = 0.0, []
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append((layer, inputs[0]))) for layer in layers
    ]
    with torch.no_grad():
        teacher.network(torch.cat(noise))
    for handle in handles:
        handle.remove()
    for layer, inputs in seen:
        values = inputs.permute(1, 0, 2, 3).flatten(2)  # (channels, images, positions)
        mean = (values.mean(dim=2) * masses).sum(dim=1)
        var = ((values - mean[:, None, None]).square().mean(dim=2) * masses).sum(dim=1)
        expected += (mean - layer.running_mean).norm() + (var - layer.running_var).norm()
    for class_id in (0, 3):
        assert recovered[class_id][1][0, 1].item() == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("kind", ["step", "linear", "cosine"])
def test_curriculum_falls_from_whole_images(kind):
    section = RecoverConfig(iterations=100, crop_scale=(0.1, 0.9), curriculum=kind, curriculum_share=0.5)
    low, high = _scales(section)
    least = low[:, 0]
    assert (len(least), high, least[0]) == (100, 0.9, pytest.approx(0.9))
    assert (least[50:] == 0.1).all()
    assert (np.diff(least) <= 0).all()
    assert least[25] == pytest.approx({"step": 0.9, "linear": 0.5, "cosine": 0.5}[kind])


def test_curriculum_changes_the_sizes_of_views_alone(teacher):
    step = {"curriculum": "step", "curriculum_share": 0.5}
    plain, curriculum = (recover(teacher, [0], FEW.model_copy(update=change))[0][0] for change in ({}, step))
    assert not torch.equal(plain, curriculum)
    whole = FEW.model_copy(update={"crop_scale": (1.0, 1.0)})
    same = whole.model_copy(update=step)
    assert torch.equal(recover(teacher, [0], whole)[0][0], recover(teacher, [0], same)[0][0])
