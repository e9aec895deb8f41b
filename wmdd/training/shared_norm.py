"""Batch-norm of the images of all processes that train a network together, as one process would compute it."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from wmdd.distributed import Ranks


def share_batch_norm(network: nn.Module, ranks: Ranks) -> None:
    """Make batch-norm layers normalise by the statistics of the images of all processes, as one process would.

    torch's `SyncBatchNorm` runs on GPUs only, and takes the place of layers that do more (timm's, which activate too).
    """
    classes: dict[type, type] = {}
    for module in network.modules() if ranks.size > 1 else ():
        if isinstance(module, _BatchNorm):
            layer = type(module)
            if layer not in classes:
                classes[layer] = type(f"Shared{layer.__name__}", (_SharedLayer, layer), {"ranks": ranks})
            module.__class__ = classes[layer]


class _SharedLayer(nn.Module):
    """A batch-norm layer in training: the call of torch's function within it is the shared one."""

    ranks: Ranks

    def forward(self, images: Tensor) -> Tensor:
        """Return what the layer does with this process's images, (n, channels, ...)."""
        if not self.training:
            return super().forward(images)  # type: ignore[no-any-return]
        with _Shared(self.ranks):
            return super().forward(images)  # type: ignore[no-any-return]


class _Shared(TorchFunctionMode):
    """Replaces `torch.nn.functional.batch_norm`."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, or the shared one in place of batch-norm."""
        call = functools.partial(_batch_norm, self._ranks) if function is F.batch_norm else function
        return call(*args, **(kwargs or {}))


def _batch_norm(
    ranks: Ranks,
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    output, mean, var, count = _BatchNormOfAll.apply(images, weight, bias, eps, ranks)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (count / (count - 1)), momentum)
    return output  # type: ignore[no-any-return]


class _BatchNormOfAll(torch.autograd.Function):
    """Batch-norm by mean and variance over all processes (Chan et al.), in float32; it keeps only its input."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: Ranks) -> Any:
        """Return the normalised images; mean, variance and number of values of all, (channels,)."""
        values, dims = images.float(), [dim for dim in range(images.dim()) if dim != 1]
        size, mean = images.numel() // images.shape[1], values.mean(dims)
        # About the mean of this process, not as a difference of moments, which cancels if that is far from zero.
        squares = (values - _by_channel(mean, values)).square().sum(dims)
        # A sum over rows of which each process fills one: all processes' numbers in each, by one message.
        rows = torch.zeros(ranks.size, 3, len(mean), device=images.device)
        rows[ranks.rank] = torch.stack([torch.full_like(mean, size), mean, squares])
        sizes, means, squares = ranks.sum(rows).unbind(1)
        count = sizes.sum(0)
        mean = (sizes * means).sum(0) / count
        var = (squares + sizes * (means - mean).square()).sum(0) / count
        ctx.save_for_backward(images, weight, mean, (var + eps).rsqrt(), count)
        ctx.ranks, ctx.dims = ranks, dims
        output = F.batch_norm(images, mean, var, weight, bias, training=False, eps=eps)
        ctx.mark_non_differentiable(mean, var, count)
        return output, mean, var, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        """Return the gradients of this process's images, and its part of those of weight and bias."""
        images, weight, mean, scale, count = ctx.saved_tensors
        gradient, centred = gradient.float(), images.float() - _by_channel(mean, images)
        sums = torch.stack([gradient.sum(ctx.dims), (gradient * centred).sum(ctx.dims)])
        offset, slope = ctx.ranks.sum(sums) / count
        inner = gradient - _by_channel(offset, images) - centred * _by_channel(slope * scale.square(), images)
        inner = inner * _by_channel(scale if weight is None else scale * weight, images)
        affine = (None, None) if weight is None else (sums[1] * scale, sums[0])
        return inner.to(images.dtype), *affine, None, None


def _by_channel(values: Tensor, images: Tensor) -> Tensor:
    return values.view(-1, *[1] * (images.dim() - 2))
