"""Channel moments: of real images, which merge exactly, and of optimised ones, with their gradient.

Moments of real images merge whatever the split into batches, workers or nodes.

Of two parts with n_a and n_b values, means m_a and m_b, and variances v_a and v_b, with n = n_a + n_b and s = n_b / n,

    mean = m_a + s (m_b - m_a),        var = v_a + s (v_b - v_a) + s (1 - s) (m_b - m_a)^2

(Chan, Golub and LeVeque, 1979). The last term is the variance between the parts, which a mean of variances would lose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and biased variance of each channel over images and positions.

    Args:
        count: number of values per channel.
        mean: (channels,) float64.
        var: (channels,) float64, biased (divided by the count).
    """

    count: int
    mean: Tensor
    var: Tensor

    def __post_init__(self) -> None:
        if self.count < 1 or self.mean.shape != self.var.shape or self.mean.ndim != 1:
            raise ValueError(f"moments of {self.count} values, {tuple(self.mean.shape)} and {tuple(self.var.shape)}")
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.var).all()):
            raise ValueError("moments must be finite")

    @staticmethod
    def of(activations: Tensor) -> Moments:
        """Return the moments of (n, channels, ...) activations."""
        return Moments.of_layers([activations])[0]

    @staticmethod
    def of_layers(layers: Sequence[Tensor]) -> tuple[Moments, ...]:
        """Return those of the (n, channels, ...) activations of several layers, by one copy from the device."""
        measured = [_mean_and_var(layer.detach()) for layer in layers]
        flat = torch.cat([part for pair in measured for part in pair]).cpu()
        parts = flat.split([len(part) for pair in measured for part in pair])
        counts = [layer.numel() // layer.shape[1] for layer in layers]
        return tuple(
            Moments(count, mean.clone(), var.clone())
            for count, mean, var in zip(counts, parts[::2], parts[1::2], strict=True)
        )

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the union."""
        count = self.count + other.count
        share = other.count / count
        delta = other.mean - self.mean
        mean = self.mean + delta * share
        var = self.var + (other.var - self.var) * share + delta.square() * (share * (1 - share))
        return Moments(count, mean, var)


def _mean_and_var(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance of each channel, (channels,) float64, on the device."""
    if not activations.is_cpu:
        return mean_and_var_by_image(activations)
    axes = [axis for axis in range(activations.ndim) if axis != 1]
    # float64: E[x^2] - E[x]^2 and long sums lose digits when a channel's mean is far from zero.
    var, mean = torch.var_mean(activations.double(), dim=axes, correction=0)
    return mean, var


def mean_and_var_by_image(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same as `_mean_and_var` within about 1e-6, in float32 within an image and float64 over images.

    For GPUs: those for consumers compute float64 at 1/64 of their rate, and a float64 copy of a layer may not fit.

    Args:
        activations: (n, channels, ...).
    """
    within, means = torch.var_mean(activations.float().flatten(2), dim=2, correction=0)
    between, mean = torch.var_mean(means.double(), dim=0, correction=0)
    return mean, within.double().mean(dim=0) + between


CACHED = 2**17  # values that are converted to float32 at a time on a CPU: 512 KiB, which stay in its cache


class ClassMoments(torch.autograd.Function):
    """The first two moments of each class about a given mean, by one pass forward and one backward.

        first_c = sum_j m_cj mean_p (a_cjp - mean_c),     second_c = sum_j m_cj mean_p (a_cjp - mean_c)^2

    Their gradient is affine in the inputs, for each image and channel: with P positions, and g1 and g2 the gradients of
    the two, d/da_cjp = m_cj / P (g1_c + 2 g2_c (a_cjp - mean_c)). The inputs are passed on as the first result, so that
    the gradient of what follows is added in the same pass. Only they are kept for it, which the next layer keeps
    anyway; autograd would keep two float32 copies, and take six passes.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, mean: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the inputs, to be used in their place, and both moments, (classes, channels) float32 each.

        Args:
            inputs: (classes * ipc, channels, h, w) a, any float type; images of a class are contiguous.
            mean: (classes, channels) float32.
            mass: (classes, ipc) float32 m, sum to 1 for each class.
        """
        classes, ipc = mass.shape
        shift, sums = mean.repeat_interleave(ipc, dim=0)[:, :, None, None], []
        for rows in _pieces(inputs):
            centred = inputs[rows].float() - shift[rows]
            sums.append(torch.stack([centred.sum(dim=(2, 3)), centred.square_().sum(dim=(2, 3))]))
        shares = (mass / inputs[0, 0].numel())[:, :, None]
        first, second = (torch.cat(sums, dim=1).view(2, classes, ipc, -1) * shares).sum(dim=2)
        ctx.save_for_backward(inputs, mean, shares)
        return inputs.view_as(inputs), first, second

    @staticmethod
    def backward(ctx: Any, of_inputs: Tensor, of_first: Tensor, of_second: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the inputs, in their type and memory format."""
        inputs, mean, shares = ctx.saved_tensors
        slope = (2 * of_second[:, None] * shares).flatten(0, 1)[:, :, None, None]
        constant = ((of_first - 2 * of_second * mean)[:, None] * shares).flatten(0, 1)[:, :, None, None]
        gradient = torch.empty_like(inputs)
        for rows in _pieces(inputs):
            gradient[rows] = torch.addcmul(constant[rows], inputs[rows], slope[rows]).add_(of_inputs[rows])
        return gradient, None, None


def _pieces(inputs: Tensor) -> Iterator[slice]:
    """Yield the rows that are computed at a time: all, where one kernel of a GPU or of compiled code takes them."""
    size = len(inputs)
    if inputs.is_cpu and not torch.compiler.is_compiling():
        size = max(1, CACHED // max(1, inputs[0].numel()))
    return (slice(start, start + size) for start in range(0, len(inputs), size))
