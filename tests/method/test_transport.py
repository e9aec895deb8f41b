"""Transport of images' features to samples of real ones, against closed forms and POT's own distance."""

import dataclasses

import numpy as np
import ot
import pytest
import torch
from builders import CPU, normal

from wmdd.method.artifacts import ClassStatistics
from wmdd.method.transport import Transport, draw_samples
from wmdd.seeding import SeedTree

DIM, SIZE = 7, 5
CLASS_SIZES = (6, 3, 9)  # the second has fewer images than a sample


def classes(sizes=CLASS_SIZES):
    return [ClassStatistics(c, 2 + normal(n, DIM, seed=c), ()) for c, n in enumerate(sizes)]


def seeds():
    return [SeedTree(0).child("recover", c, "transport") for c in range(len(CLASS_SIZES))]


def masses():
    weights = torch.arange(1.0, 13.0).view(3, 4)
    return weights / weights.sum(dim=1, keepdim=True)


def loss_and_gradient(statistics, features, mass, rows):
    features = features.clone().requires_grad_(True)
    losses = Transport(statistics, mass, SIZE, CPU)(features, rows)
    return losses.detach(), torch.autograd.grad(losses.sum(), features)[0]


def test_two_points_are_assigned_to_the_nearest():
    real = torch.tensor([[10.0, 0.0], [0.0, 10.0]])  # of squared norm 100
    images = torch.tensor([[[0.0, 12.0], [11.0, 0.0]]])
    statistics, mass = [ClassStatistics(0, real, ())], torch.full((1, 2), 0.5)
    loss, gradient = loss_and_gradient(statistics, images, mass, torch.tensor([[0, 1]]))
    assert loss.tolist() == pytest.approx([(4 + 1) / 2 / 100])
    torch.testing.assert_close(gradient, torch.tensor([[[0.0, 2.0], [1.0, 0.0]]]) / 100)


def test_one_image_is_drawn_to_the_mean_of_the_sample():
    (statistics,) = classes((6,))
    image, rows = normal(1, 1, DIM, seed=9), torch.tensor([[0, 2, 3, 5, 1]])
    sample, unit = statistics.features[rows[0].long()], statistics.features.square().sum(dim=1).mean()
    loss, gradient = loss_and_gradient([statistics], image, torch.ones(1, 1), rows)
    torch.testing.assert_close(loss[0], (image[0] - sample).square().sum(dim=1).mean() / unit)
    torch.testing.assert_close(gradient[0, 0], 2 * (image[0, 0] - sample.mean(dim=0)) / unit)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_loss_is_the_distance_that_pot_computes(offset):
    statistics = [dataclasses.replace(item, features=item.features + offset) for item in classes()]
    features, mass = normal(3, 4, DIM, seed=9) + offset, masses()
    rows = draw_samples(statistics, seeds(), 1, SIZE)[0]
    losses, _ = loss_and_gradient(statistics, features, mass, rows)
    for position, item in enumerate(statistics):
        count = min(SIZE, len(item.features))
        sample = item.features.double()[rows[position, :count].long()]
        costs = ot.dist(features[position].double().numpy(), sample.numpy())
        expected = ot.emd2(mass[position].double().numpy(), np.full(count, 1 / count), costs)
        unit = item.features.double().square().sum(dim=1).mean()
        assert losses[position].item() == pytest.approx(expected / unit.item(), rel=1e-4)


def test_loss_has_no_unit():
    features, rows = normal(3, 4, DIM, seed=9), draw_samples(classes(), seeds(), 1, SIZE)[0]
    larger = [dataclasses.replace(item, features=item.features * 30) for item in classes()]
    losses, _ = loss_and_gradient(classes(), features, masses(), rows)
    torch.testing.assert_close(loss_and_gradient(larger, features * 30, masses(), rows)[0], losses)


def test_loss_and_gradient_of_a_class_do_not_depend_on_its_group():
    features, mass = normal(3, 4, DIM, seed=9), masses()
    rows = draw_samples(classes(), seeds(), 1, SIZE)[0]
    losses, gradients = loss_and_gradient(classes(), features, mass, rows)
    for position, item in enumerate(classes()):
        one, count = slice(position, position + 1), min(SIZE, len(item.features))
        loss, gradient = loss_and_gradient([item], features[one], mass[one], rows[one, :count])
        torch.testing.assert_close(loss[0], losses[position], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(gradient, gradients[one], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_class_that_has_diverged_leaves_the_others(value):
    features, rows = normal(3, 4, DIM, seed=9), draw_samples(classes(), seeds(), 1, SIZE)[0]
    losses, gradients = loss_and_gradient(classes(), features, masses(), rows)
    features[1, 2, 0] = value
    spoilt, spoilt_gradients = loss_and_gradient(classes(), features, masses(), rows)
    assert torch.isnan(spoilt[1])
    assert torch.equal(spoilt[[0, 2]], losses[[0, 2]])
    assert torch.equal(spoilt_gradients[[0, 2]], gradients[[0, 2]])


def test_samples_are_of_each_class_alone_and_hold_no_row_twice():
    rows = draw_samples(classes(), seeds(), 40, SIZE)
    assert (rows.dtype, tuple(rows.shape)) == (torch.int32, (40, 3, SIZE))
    for position, size in enumerate(CLASS_SIZES):
        count, one = min(SIZE, size), slice(position, position + 1)
        drawn = rows[:, position, :count]
        assert all(len(set(step.tolist())) == count for step in drawn)
        assert set(drawn.flatten().tolist()) == set(range(size))  # each image comes up
        assert torch.equal(draw_samples(classes()[one], seeds()[one], 40, SIZE)[:, 0], drawn)
