"""The loss of one batch-norm layer with its gradient, in one pass over the layer's inputs each way.

Of a class c with images j of masses m_cj, positions p, inputs a and targets mean_c and var_c, for each channel

    first_c = sum_j m_cj mean_p (a_cjp - mean_c),     second_c = sum_j m_cj mean_p (a_cjp - mean_c)^2,
    loss_c = |first_c| + |second_c - first_c^2 - var_c|,

which is `losses.batch_norm_loss`: moments about the target mean do not cancel once the means agree. With P positions,
and g1 and g2 the gradients of loss_c by the two moments, its gradient is affine in the inputs:

    d loss_c / d a_cjp = m_cj / P (g1_c + 2 g2_c (a_cjp - mean_c)).

Only the inputs are kept for it, which the layer keeps anyway. Left to autograd, the same takes two float32 copies of
every layer's inputs and six passes over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CACHED = 2**17  # values that are converted to float32 at a time on a CPU: 512 KiB, which stay in its cache


class BatchNormTerm(torch.autograd.Function):
    """From (inputs, mean, var, mass, relative), as for `losses.batch_norm_loss`, to (inputs, loss).

    The inputs are passed on, so that the gradient of the layer that gets them is added in the same pass.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, mean: Tensor, var: Tensor, mass: Tensor, relative: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs, to be used in their place, and the loss, (classes,) float32."""
        classes, ipc = mass.shape
        shift, sums = mean.repeat_interleave(ipc, dim=0)[:, :, None, None], []
        for rows in _pieces(inputs):
            centred = inputs[rows].float() - shift[rows]
            sums.append(torch.stack([centred.sum(dim=(2, 3)), centred.square_().sum(dim=(2, 3))]))
        shares = (mass / inputs[0, 0].numel())[:, :, None]
        first, second = (torch.cat(sums, dim=1).view(2, classes, ipc, -1) * shares).sum(dim=2)
        excess = second - first.square() - var
        of_means, of_vars = norm(first), norm(excess)
        scales = (norm(mean), norm(var)) if relative else (torch.ones_like(of_means), torch.ones_like(of_vars))
        of_second = excess / (of_vars * scales[1])[:, None]
        of_first = first / (of_means * scales[0])[:, None] - 2 * first * of_second
        ctx.save_for_backward(inputs, mean, shares, of_first, of_second)
        return inputs.view_as(inputs), of_means / scales[0] + of_vars / scales[1]

    @staticmethod
    def backward(ctx: Any, of_inputs: Tensor, of_loss: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Return the gradient of the inputs, in their type and memory format."""
        inputs, mean, shares, of_first, of_second = ctx.saved_tensors
        slope = 2 * of_second
        slope, constant = (
            ((part * of_loss[:, None])[:, None] * shares).flatten(0, 1)[:, :, None, None]
            for part in (slope, of_first - slope * mean)
        )
        gradient = torch.empty_like(inputs)
        for rows in _pieces(inputs):
            gradient[rows] = torch.addcmul(constant[rows], inputs[rows], slope[rows]).add_(of_inputs[rows])
        return gradient, None, None, None, None


def norm(values: Tensor) -> Tensor:
    """Return the Euclidean norm along the last axis, of squares plus 1e-12 so that it has a slope at 0."""
    return torch.sqrt(values.square().sum(dim=-1) + 1e-12)


def _pieces(inputs: Tensor) -> Iterator[slice]:
    """Yield the rows that are computed at a time: all, where one kernel of a GPU or of compiled code takes them."""
    size = len(inputs)
    if inputs.is_cpu and not torch.compiler.is_compiling():
        size = max(1, CACHED // max(1, inputs[0].numel()))
    return (slice(start, start + size) for start in range(0, len(inputs), size))
