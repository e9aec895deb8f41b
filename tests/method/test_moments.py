"""Moments against NumPy in float64, for any split and any order of merging."""

import functools

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from wmdd.method.moments import PART, Moments, mean_and_var_by_image
from wmdd.seeding import SeedTree


def normal(*shape, seed=0, offset=0.0, scale=1.0):
    return torch.randn(*shape, generator=SeedTree(seed).torch(), dtype=torch.float64) * scale + offset


def close(a, b, tolerance=1e-10):
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-13, atol=tolerance)
    torch.testing.assert_close(a.var, b.var, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_moments_are_numpys_over_images_and_positions(dtype):
    for shape in ((6, 3), (6, 3, 4), (6, 3, 4, 5), (1, 1, 1, 1), (2, 512, 1, 1)):
        values = normal(*shape).to(dtype)
        moments = Moments.of(values)
        flat = np.moveaxis(values.double().numpy(), 1, 0).reshape(shape[1], -1)
        assert moments.count == flat.shape[1]
        assert moments.mean.dtype == moments.var.dtype == torch.float64
        np.testing.assert_allclose(moments.mean, flat.mean(axis=1), rtol=0, atol=1e-14)
        np.testing.assert_allclose(moments.var, flat.var(axis=1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(9, 64, 40, 40), (PART // 16 + 1, 16), (2, 3, 300, 301)])
def test_moments_of_large_layers_are_those_of_float64(shape):
    """They are measured in parts, the last of which is smaller, and of which an image may be more than one."""
    values = (normal(*shape, offset=30) + normal(shape[0], 1, *shape[2:], seed=1)).float()
    values = values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values
    moments, flat = Moments.of(values), np.moveaxis(values.double().numpy(), 1, 0).reshape(shape[1], -1)
    np.testing.assert_allclose(moments.mean, flat.mean(axis=1), rtol=1e-13)
    np.testing.assert_allclose(moments.var, flat.var(axis=1), rtol=1e-12)


def test_moments_far_from_zero_keep_their_variance():
    moments = Moments.of(normal(50, 2, 4, 4, offset=1e6))
    assert (moments.var - 1).abs().max() < 0.2
    float32 = Moments.of(normal(50, 2, 4, 4, offset=1e3).float())
    assert (float32.var - 1).abs().max() < 0.2


# Values around 1e6 with variance 1: NumPy's own two passes leave about 1e-10 of it.
@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    offset=st.sampled_from([0.0, -1e3, 1e6]),
    seed=st.integers(0, 1000),
)
def test_moments_of_unequal_batches_merge_exactly(sizes, offset, seed):
    values = normal(sum(sizes), 3, 2, 2, seed=seed, offset=offset)
    merged = functools.reduce(Moments.merge, map(Moments.of, values.split(sizes)))
    close(merged, Moments.of(values), 1e-9 if offset == 1e6 else 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_moments_by_image_are_those_of_float64(dtype, offset):
    """What GPUs compute, here on the CPU; images differ in brightness, so that variance is between them, too."""
    for shape in ((1, 3, 1, 1), (7, 3, 1, 1), (5, 4, 9, 7), (3, 2, 112, 112)):
        values = (normal(*shape, offset=offset) + normal(shape[0], 1, 1, 1, seed=1)).to(dtype)
        mean, var = mean_and_var_by_image(values)
        exact = Moments.of(values)
        assert mean.dtype == var.dtype == torch.float64
        torch.testing.assert_close(mean, exact.mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(var, exact.var, rtol=1e-4 if offset else 1e-5, atol=1e-6)


def test_layers_are_measured_together_as_one_by_one():
    layers = [normal(4, channels, 3, 3, seed=channels).float() for channels in (2, 5, 1)]
    for moments, expected in zip(Moments.of_layers(layers), map(Moments.of, layers), strict=True):
        assert moments.count == expected.count
        assert torch.equal(moments.mean, expected.mean)
        assert torch.equal(moments.var, expected.var)


def test_merging_is_associative_and_commutative():
    a, b, c = (Moments.of(normal(n, 4, 3, seed=n, offset=10 * n, scale=n)) for n in (1, 5, 17))
    close(a.merge(b).merge(c), a.merge(b.merge(c)))
    close(a.merge(b), b.merge(a))


def test_variance_between_the_parts_is_kept():
    low, high = Moments.of(torch.zeros(3, 1, 2)), Moments.of(torch.ones(1, 1, 2))
    merged = low.merge(high)
    assert (merged.count, merged.mean.item(), merged.var.item()) == (8, 0.25, 0.1875)


def test_measuring_detaches_from_the_graph():
    assert not Moments.of(torch.ones(2, 3, requires_grad=True)).var.requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_not_finite_are_refused(bad):
    values = torch.zeros(2, 3, 2, 2)
    values[1, 2, 0, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        Moments.of(values)


@pytest.mark.parametrize(
    ("count", "mean", "var"),
    [
        (0, torch.zeros(3), torch.zeros(3)),
        (2, torch.zeros(3), torch.zeros(2)),
        (2, torch.zeros(1, 3), torch.zeros(1, 3)),
    ],
)
def test_empty_or_mismatched_moments_are_refused(count, mean, var):
    with pytest.raises(ValueError, match=f"moments of {count} values"):
        Moments(count, mean, var)
