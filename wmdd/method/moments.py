"""Channel moments that merge exactly, whatever the split into batches, workers or nodes.

Of two parts with n_a and n_b values, means m_a and m_b, and variances v_a and v_b, with n = n_a + n_b and s = n_b / n,

    mean = m_a + s (m_b - m_a),        var = v_a + s (v_b - v_a) + s (1 - s) (m_b - m_a)^2

(Chan, Golub and LeVeque, 1979). The last term is the variance between the parts, which a mean of variances would lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PART = 2**17  # values whose float64 copy stays in the cache of a CPU core


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
    parts = activations.split(max(1, PART // max(1, activations[0].numel())))
    # float64: E[x^2] - E[x]^2 and long sums lose digits when a channel's mean is far from zero. With torch's kernel for
    # batch-norm, and part by part, that takes a seventeenth of the time of `torch.var_mean` on a copy of the whole.
    measured = [torch.batch_norm_update_stats(part.double(), None, None, 0.0) for part in parts]
    means, variances = (torch.stack(values) for values in zip(*measured, strict=True))
    shares = means.new_tensor([[len(part) / len(activations)] for part in parts])
    mean = (shares * means).sum(dim=0)
    return mean, (shares * (variances + (means - mean).square())).sum(dim=0)


def mean_and_var_by_image(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same as `_mean_and_var` within about 1e-6, in float32 within an image and float64 over images.

    For GPUs: those for consumers compute float64 at 1/64 of their rate, and a float64 copy of a layer may not fit.

    Args:
        activations: (n, channels, ...).
    """
    within, means = torch.var_mean(activations.float().flatten(2), dim=2, correction=0)
    between, mean = torch.var_mean(means.double(), dim=0, correction=0)
    return mean, within.double().mean(dim=0) + between
