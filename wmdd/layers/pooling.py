"""Max-pooling that torch's compiler leaves to torch's kernels on a CPU.

The code that it generates for a CPU takes eleven times as long: 12 ms forward and 11 ms backward for 100 images of
32 px in the standard stem of a ResNet, a third of a compiled step of recovery; torch's kernels take 0.6 and 1.5 ms.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, library, nn

Pair = list[int]


def keep_pooling(network: nn.Module) -> None:
    """Turn a network's max-pooling layers, except those that return indices, into `UncompiledMaxPool2d`."""
    for module in network.modules():
        if type(module) is nn.MaxPool2d and not module.return_indices:
            module.__class__ = UncompiledMaxPool2d


class UncompiledMaxPool2d(nn.MaxPool2d):
    """Max-pooling that is one call of torch's kernel, also in a compiled network."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the maxima of (n, channels, h, w) images."""
        if not torch.compiler.is_compiling():
            return cast(Tensor, super().forward(images))
        sizes = (_pair(size) for size in (self.kernel_size, self.stride, self.padding, self.dilation))
        return cast(Tensor, _max_pool(images, *sizes, self.ceil_mode)[0])


def _pair(size: Any) -> Pair:
    return list(size) if isinstance(size, tuple | list) else [size, size]


# Schemas are written out, because torch before 2.7 cannot read them from these annotations.
_SIZES = "SymInt[] kernel, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool ceil_mode"


def _kernel(images: Tensor, *sizes: Any) -> tuple[Tensor, Tensor]:
    pooled, indices = torch.ops.aten.max_pool2d_with_indices(images, *sizes)
    return pooled, indices


def _gradient(gradient: Tensor, images: Tensor, indices: Tensor, *sizes: Any) -> Tensor:
    return cast(Tensor, torch.ops.aten.max_pool2d_with_indices_backward(gradient, images, *sizes, indices))


_max_pool = library.custom_op(
    "wmdd::max_pool", _kernel, mutates_args=(), schema=f"(Tensor images, {_SIZES}) -> (Tensor, Tensor)"
)
_max_pool_backward = library.custom_op(
    "wmdd::max_pool_backward",
    _gradient,
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor images, Tensor indices, {_SIZES}) -> Tensor",
)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    images, *ctx.sizes = inputs
    ctx.save_for_backward(images, output[1])


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _max_pool_backward(gradient, *ctx.saved_tensors, *ctx.sizes), None, None, None, None, None


_max_pool.register_fake(_kernel)
_max_pool.register_autograd(_gradients, setup_context=_keep)
_max_pool_backward.register_fake(_gradient)
