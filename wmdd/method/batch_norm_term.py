"""A batch-norm layer in evaluation and the loss of its inputs, in one pass over them each way.

Of a class c with images j of masses m_cj, positions p, inputs a and targets mean_c and var_c, for each channel

    first_c = sum_j m_cj mean_p (a_cjp - mean_c),     second_c = sum_j m_cj mean_p (a_cjp - mean_c)^2,
    loss_c = |first_c| + |second_c - first_c^2 - var_c|,          output_cjp = s a_cjp + h;

the loss is `losses.batch_norm_loss`: moments about the target mean do not cancel once the means agree. With P
positions, g the gradient of the output, and g1 and g2 those of loss_c by the two moments, the gradient of both is

    m_cj / P (g1_c + 2 g2_c (a_cjp - mean_c)) + s g_cjp.

Only the inputs are kept for it. Left to autograd, the same keeps two more float32 copies of every layer's inputs, and
takes nine passes over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CACHED = 2**17  # values that are converted to float32 at a time on a CPU: 512 KiB, which stay in its cache


class BatchNormTerm(torch.autograd.Function):
    """From (inputs, mean, var, mass, relative, scale, shift) to (output, loss).

    The first five are those of `losses.batch_norm_loss`; scale and shift are s and h, (channels,) float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        mean: Tensor,
        var: Tensor,
        mass: Tensor,
        relative: bool,
        scale: Tensor,
        shift: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's output, in the inputs' type and memory format, and the loss, (classes,) float32."""
        classes, ipc = mass.shape
        slope, sums, output = scale[:, None, None], [], torch.empty_like(inputs)
        means, constants = (_by_image(part, ipc) for part in (mean, shift + scale * mean))
        for rows in _pieces(inputs):
            centred = inputs[rows].float() - means[rows]
            output[rows] = torch.addcmul(constants[rows], centred, slope)
            sums.append(torch.stack([centred.sum(dim=(2, 3)), centred.square_().sum(dim=(2, 3))]))
        shares = (mass / inputs[0, 0].numel())[:, :, None]
        first, second = (torch.cat(sums, dim=1).view(2, classes, ipc, -1) * shares).sum(dim=2)
        excess = second - first.square() - var
        of_means, of_vars = norm(first), norm(excess)
        units = (norm(mean), norm(var)) if relative else (torch.ones_like(of_means), torch.ones_like(of_vars))
        by_second = excess / (of_vars * units[1])[:, None]
        by_first = first / (of_means * units[0])[:, None] - 2 * first * by_second
        ctx.save_for_backward(inputs, mean, shares, by_first, by_second, slope)
        return output, of_means / units[0] + of_vars / units[1]

    @staticmethod
    def backward(ctx: Any, of_output: Tensor, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the inputs, in their type and memory format."""
        inputs, mean, shares, by_first, by_second, slope = ctx.saved_tensors
        factors = of_loss[:, None, None] * shares  # (classes, ipc, 1)
        slopes = (2 * by_second[:, None] * factors).flatten(0, 1)[:, :, None, None]
        constants = ((by_first - 2 * by_second * mean)[:, None] * factors).flatten(0, 1)[:, :, None, None]
        gradient = torch.empty_like(inputs)
        for rows in _pieces(inputs):
            piece = torch.addcmul(constants[rows], inputs[rows], slopes[rows])
            gradient[rows] = piece.addcmul_(of_output[rows], slope)
        return gradient, None, None, None, None, None, None


def _by_image(values: Tensor, ipc: int) -> Tensor:
    """Return (classes * ipc, channels, 1, 1) from (classes, channels)."""
    return values[:, None].expand(-1, ipc, -1).flatten(0, 1)[:, :, None, None]


def norm(values: Tensor) -> Tensor:
    """Return the Euclidean norm along the last axis, of squares plus 1e-12 so that it has a slope at 0."""
    return torch.sqrt(values.square().sum(dim=-1) + 1e-12)


def _pieces(inputs: Tensor) -> Iterator[slice]:
    """Yield the rows that are computed at a time: all, where one kernel of a GPU or of compiled code takes them."""
    size = len(inputs)
    if inputs.is_cpu and not torch.compiler.is_compiling():
        size = max(1, CACHED // max(1, inputs[0].numel()))
    return (slice(start, start + size) for start in range(0, len(inputs), size))
