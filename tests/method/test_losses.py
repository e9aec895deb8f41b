"""Losses against closed forms and plain PyTorch, one class at a time and in groups."""

import math

import pytest
import torch
import torch.nn.functional as F
from builders import normal

from wmdd.method import batch_norm_term
from wmdd.method.losses import batch_norm_loss, cross_entropy_loss, feature_loss, soft_label_loss
from wmdd.seeding import SeedTree

CLASSES, IPC, DIM = 4, 3, 7


def masses(classes=CLASSES, ipc=IPC):
    weights = torch.rand(classes, ipc, generator=SeedTree(99).torch()) + 0.1
    return weights / weights.sum(dim=1, keepdim=True)


def gradient(loss, *tensors):
    return torch.autograd.grad(loss.sum(), tensors)


def test_feature_loss_is_the_weighted_distance():
    features, support = torch.zeros(1, 2, 3), torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]])
    weights = torch.tensor([[0.25, 0.75]])
    assert feature_loss(features, support, weights, "squared").tolist() == [0.25 * 25 + 0.75 * 4]
    assert feature_loss(features, support, weights, "rms").item() == pytest.approx((0.25 * 25 + 0.75 * 4) ** 0.5)


def test_feature_loss_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"features \(1, 2, 3\) and support \(2, 1, 3\) must match"):
        feature_loss(torch.zeros(1, 2, 3), torch.zeros(2, 1, 3), torch.ones(1, 2), "rms")


def released_feature_loss(features, support):
    """The released code's term: one Frobenius norm over everything in its batch."""
    return (features - support).square().sum().sqrt()


@pytest.mark.parametrize("ipc", [1, 4, 100])
def test_rms_times_root_ipc_is_the_released_norm(ipc):
    features, support = normal(1, ipc, 64).requires_grad_(True), normal(1, ipc, 64, seed=1)
    ours = ipc**0.5 * feature_loss(features, support, torch.full((1, ipc), 1 / ipc), "rms")
    theirs = released_feature_loss(features, support)
    torch.testing.assert_close(ours[0], theirs)
    torch.testing.assert_close(*gradient(ours, features), *gradient(theirs, features))


@pytest.mark.parametrize("kind", ["rms", "squared"])
def test_feature_loss_does_not_depend_on_the_group(kind):
    features = normal(CLASSES, IPC, DIM).requires_grad_(True)
    support, mass = normal(CLASSES, IPC, DIM, seed=1), masses()
    grouped = feature_loss(features, support, mass, kind)
    (expected,) = gradient(grouped, features)
    for row in range(CLASSES):
        one = slice(row, row + 1)
        alone_features = features[one].detach().requires_grad_(True)
        alone = feature_loss(alone_features, support[one], mass[one], kind)
        torch.testing.assert_close(alone[0], grouped[row], rtol=1e-6, atol=0)
        torch.testing.assert_close(*gradient(alone, alone_features), expected[one], rtol=1e-6, atol=1e-9)


def test_batch_norm_loss_does_not_depend_on_the_group():
    inputs = normal(CLASSES * IPC, 5, 4, 4).requires_grad_(True)
    mean, var, mass = normal(CLASSES, 5, seed=1), normal(CLASSES, 5, seed=2).exp(), masses()
    grouped = batch_norm_loss(inputs, mean, var, mass)
    (expected,) = gradient(grouped, inputs)
    for row in range(CLASSES):
        one, images = slice(row, row + 1), slice(row * IPC, (row + 1) * IPC)
        alone_inputs = inputs[images].detach().requires_grad_(True)
        alone = batch_norm_loss(alone_inputs, mean[one], var[one], mass[one])
        torch.testing.assert_close(alone[0], grouped[row], rtol=1e-6, atol=0)
        torch.testing.assert_close(*gradient(alone, alone_inputs), expected[images], rtol=1e-5, atol=1e-8)


def test_no_loss_leaks_a_gradient_into_another_class():
    features, inputs = normal(2, IPC, DIM).requires_grad_(True), normal(2 * IPC, 5, 4, 4).requires_grad_(True)
    logits, weights = normal(2 * IPC, 6).requires_grad_(True), masses(2)
    feature = feature_loss(features, normal(2, IPC, DIM, seed=1), weights, "rms")[0]
    batch_norm = batch_norm_loss(inputs, torch.zeros(2, 5), torch.ones(2, 5), weights)[0]
    cross_entropy = cross_entropy_loss(logits, torch.tensor([1, 2]), IPC)[0]
    by_feature, by_inputs, by_logits = gradient(feature + batch_norm + cross_entropy, features, inputs, logits)
    for own, other in (
        (by_feature[0], by_feature[1]),
        (by_inputs[:IPC], by_inputs[IPC:]),
        (by_logits[:IPC], by_logits[IPC:]),
    ):
        assert own.abs().sum() > 0
        assert not other.any()


def obvious_batch_norm_loss(inputs, mean, var, relative):
    norm = torch.linalg.vector_norm
    own_var, own_mean = torch.var_mean(inputs, dim=(0, 2, 3), correction=0)
    scales = (norm(mean), norm(var)) if relative else (1, 1)
    return norm(own_mean - mean) / scales[0] + norm(own_var - var) / scales[1]


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_batch_norm_loss_and_gradient_are_var_means(offset, relative):
    inputs = (normal(CLASSES * IPC, 5, 4, 4) + offset).requires_grad_(True)
    mean, var = normal(CLASSES, 5, seed=1) + offset, normal(CLASSES, 5, seed=2).exp()
    ours = batch_norm_loss(inputs, mean, var, torch.full((CLASSES, IPC), 1 / IPC), relative=relative)
    parts = zip(inputs.double().split(IPC), mean.double(), var.double(), strict=True)
    theirs = torch.stack([obvious_batch_norm_loss(*part, relative) for part in parts]).float()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*gradient(ours, inputs), *gradient(theirs, inputs), rtol=1e-4, atol=1e-6)


def test_batch_norm_loss_far_from_zero_does_not_cancel():
    wide = normal(8, 3, 16, 16).double() + 1000
    inputs = wide.float()
    var, mean = torch.var_mean(inputs.double(), dim=(0, 2, 3), correction=0)
    loss = batch_norm_loss(inputs, mean.float()[None], var.float()[None], torch.full((1, 8), 1 / 8))
    assert loss.item() < 1e-3


def test_masses_act_as_repetitions_of_images():
    inputs, mean, var = normal(2 * 3, 5, 4, 4), normal(2, 5, seed=1), normal(2, 5, seed=2).exp()
    weighted = batch_norm_loss(inputs, mean, var, torch.tensor([[0.2, 0.2, 0.6], [0.4, 0.0, 0.6]]))
    repeated = batch_norm_loss(inputs[[0, 1, 2, 2, 2, 3, 3, 5, 5, 5]], mean, var, torch.full((2, 5), 0.2))
    torch.testing.assert_close(weighted, repeated, rtol=1e-5, atol=1e-6)


def test_batch_norm_loss_of_a_constant_image_is_known():
    inputs = torch.full((1, 2, 4, 4), 3.0)
    loss = batch_norm_loss(inputs, torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.ones(1, 1))
    assert loss.item() == pytest.approx(18**0.5 + 5)


def test_batch_norm_loss_of_bf16_inputs_is_float32():
    inputs = normal(4, 5, 8, 8).bfloat16()
    arguments = (torch.zeros(1, 5), torch.ones(1, 5), torch.full((1, 4), 0.25))
    half, full = batch_norm_loss(inputs, *arguments), batch_norm_loss(inputs.float(), *arguments)
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


def test_cross_entropy_is_the_mean_over_each_class():
    logits, class_ids = normal(CLASSES * IPC, 9), torch.tensor([8, 0, 3, 3])
    expected = [F.cross_entropy(logits[c * IPC : (c + 1) * IPC], class_ids[c].repeat(IPC)) for c in range(CLASSES)]
    torch.testing.assert_close(cross_entropy_loss(logits, class_ids, IPC), torch.stack(expected))
    uniform = cross_entropy_loss(torch.zeros(2, 10), torch.tensor([4]), 2)
    torch.testing.assert_close(uniform, torch.tensor([10.0]).log())


def test_soft_label_loss_by_hand_with_two_temperatures():
    student, teacher = torch.tensor([[1.0, 3.0]]), torch.tensor([[4.0, 0.0]])
    p = 1 / (1 + math.exp(-4 / 2))  # softmax of (4, 0) / 2
    q = 1 / (1 + math.exp(2 / 0.5))  # softmax of (1, 3) / 0.5
    divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    loss = soft_label_loss(student, teacher, torch.ones(1), 2.0, torch.tensor(0.5))
    assert float(loss) == pytest.approx(divergence, rel=1e-5)
    squared = soft_label_loss(student, teacher, torch.ones(1), 2.0, torch.tensor(0.5), squared=True)
    assert float(squared) == pytest.approx(4 * divergence, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_soft_label_loss_is_torchs_batch_mean(temperature):
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    expected = F.kl_div(
        F.log_softmax(student.double() / temperature, 1),
        F.softmax(teacher.double() / temperature, 1),
        reduction="batchmean",
    )
    got = soft_label_loss(student, teacher, torch.ones(6), temperature)
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-8)


def test_soft_label_gradient_is_in_closed_form():
    student, teacher, temperature = normal(6, 5).requires_grad_(True), normal(6, 5, seed=1), 4.0
    loss = soft_label_loss(student, teacher, torch.ones(6), temperature)
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(*gradient(loss, student), (difference / temperature / 6).detach(), rtol=1e-4, atol=1e-8)


def test_soft_label_loss_of_shifted_logits_is_zero():
    logits = normal(6, 5)
    assert soft_label_loss(logits, logits, torch.ones(6), 20.0).item() == 0
    assert abs(soft_label_loss(logits + 3, logits, torch.ones(6), 20.0).item()) < 1e-6


def test_soft_label_weights_scale_each_image():
    student, teacher, weights = normal(6, 5), normal(6, 5, seed=1), torch.tensor([0.0, 2.0, 1.0, 1.0, 0.5, 1.5])
    each = torch.stack([soft_label_loss(student[i : i + 1], teacher[i : i + 1], torch.ones(1), 2.0) for i in range(6)])
    torch.testing.assert_close(soft_label_loss(student, teacher, weights, 2.0), (each * weights).mean())


def test_gradients_at_the_optimum_are_finite_and_zero():
    features = normal(2, IPC, DIM).requires_grad_(True)
    inputs = normal(2 * IPC, 5, 1, 1).sign().requires_grad_(True)
    loss = feature_loss(features, features.detach(), masses(2), "rms")
    constant = torch.ones(2 * IPC, 5, 2, 2).requires_grad_(True)
    loss = loss + batch_norm_loss(constant, torch.ones(2, 5), torch.zeros(2, 5), masses(2))
    by_features, by_constant = gradient(loss, features, constant)
    assert not by_features.any()
    assert torch.isfinite(by_constant).all()
    assert by_constant.abs().max() < 1e-4
    var, mean = torch.var_mean(inputs.detach().unflatten(0, (2, IPC)), dim=(1, 3, 4), correction=0)
    matched = batch_norm_loss(inputs, mean, var, torch.full((2, IPC), 1 / IPC))
    assert torch.isfinite(gradient(matched, inputs)[0]).all()


def test_gradients_of_distant_logits_are_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = soft_label_loss(student, torch.tensor([[-1e4, 1e4, 0.0]]), torch.ones(1), 1.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(loss, student)[0]).all()


def test_relative_batch_norm_loss_has_no_unit():
    """Inputs and targets in another unit give the same loss, and absolute distances times it."""
    generator = SeedTree(7).torch()
    inputs, mean = torch.randn(4, 5, 6, 6, generator=generator), torch.randn(2, 5, generator=generator)
    var, weights = torch.rand(2, 5, generator=generator) + 0.5, torch.full((2, 2), 0.5)
    for unit in (1e-2, 30.0):
        scaled = (inputs * unit, mean * unit, var * unit**2, weights)
        torch.testing.assert_close(
            batch_norm_loss(*scaled, relative=True),
            batch_norm_loss(inputs, mean, var, weights, relative=True),
            rtol=1e-3, atol=1e-4,
        )  # fmt: skip
    assert not torch.allclose(
        batch_norm_loss(inputs * 30, mean * 30, var * 900, weights), batch_norm_loss(inputs, mean, var, weights)
    )


SCALE, SHIFT = torch.tensor([0.5, 1.0, 2.0, 3.0, -1.0]), torch.tensor([0.0, 1.0, -2.0, 0.5, 4.0])
MASS = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])


def layer_and_gradient(inputs, *, fused=True):
    """A layer's output, the loss of its inputs, and the gradient of both, also as two passes give them."""
    inputs = inputs.detach().requires_grad_(True)
    mean, var = normal(2, 5, seed=1), normal(2, 5, seed=2).exp()
    if fused:
        output, loss = batch_norm_term.BatchNormTerm.apply(inputs, mean, var, MASS, False, SCALE, SHIFT)
    else:
        output = inputs * SCALE[:, None, None] + SHIFT[:, None, None]
        loss = batch_norm_loss(inputs, mean, var, MASS)
    return output, loss, *gradient(output.float().sin().sum() + loss.square().sum(), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_batch_norm_loss_does_not_depend_on_the_pieces_of_its_sums(dtype, monkeypatch):
    inputs = normal(6, 5, 4, 4).to(dtype)
    whole = layer_and_gradient(inputs)
    for cached in (1, 200):  # one image, and two
        monkeypatch.setattr(batch_norm_term, "CACHED", cached)
        for value, expected in zip(layer_and_gradient(inputs), whole, strict=True):
            assert torch.equal(value, expected)
    assert whole[2].dtype == dtype


def test_a_layer_with_its_loss_equals_both_one_after_the_other():
    inputs = normal(6, 5, 4, 4).contiguous(memory_format=torch.channels_last)
    fused, separate = layer_and_gradient(inputs), layer_and_gradient(inputs, fused=False)
    for value, expected in zip(fused, separate, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    assert fused[0].is_contiguous(memory_format=torch.channels_last)
    assert fused[2].is_contiguous(memory_format=torch.channels_last)


def test_the_batch_norm_loss_keeps_no_copy_of_its_inputs():
    inputs = normal(6, 5, 4, 4).bfloat16().requires_grad_(True)
    kept, arguments = [], (torch.zeros(2, 5), torch.ones(2, 5), MASS, True, SCALE, SHIFT)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept):
        batch_norm_term.BatchNormTerm.apply(inputs, *arguments)
    large = [tensor for tensor in kept if tensor.numel() >= inputs.numel()]
    assert [tensor.data_ptr() for tensor in large] == [inputs.data_ptr()]
