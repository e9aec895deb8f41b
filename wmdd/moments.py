"""Channel moments that merge exactly, whatever the split into batches, workers or nodes."""

from __future__ import annotations

from dataclasses import dataclass

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
        """Measure (n, channels, ...) activations."""
        # float64: E[x^2] - E[x]^2 and long sums lose digits when a channel's mean is far from zero.
        wide = activations.detach().double()
        axes = [axis for axis in range(wide.ndim) if axis != 1]
        var, mean = torch.var_mean(wide, dim=axes, correction=0)
        return Moments(wide.numel() // wide.shape[1], mean.cpu(), var.cpu())

    def merge(self, other: Moments) -> Moments:
        """Give the moments of the union: the variance between the parts is kept (Chan et al., 1979)."""
        count = self.count + other.count
        share = other.count / count
        delta = other.mean - self.mean
        mean = self.mean + delta * share
        var = self.var + (other.var - self.var) * share + delta.square() * (share * (1 - share))
        return Moments(count, mean, var)
