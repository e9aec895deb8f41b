"""Max-pooling that torch's compiler leaves to torch's own kernels on a CPU.

The code that it generates for a CPU takes some twenty times as long: 12 ms forward and 11 ms back for 100 images of
32 px in the standard stem of a ResNet, a third of a compiled step of recovery, where torch's kernels take 0.6 and 1.5.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

Pair = list[int]


def keep_pooling(network: nn.Module) -> None:
    """Turn a network's max-pooling layers into such ones."""
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
    return list(size) if isinstance(size, tuple) else [size, size]


@torch.library.custom_op("wmdd::max_pool", mutates_args=())
def _max_pool(
    images: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    return _kernel(images, kernel, stride, padding, dilation, ceil_mode)


@torch.library.custom_op("wmdd::max_pool_backward", mutates_args=())
def _max_pool_backward(
    gradient: Tensor,
    images: Tensor,
    indices: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> Tensor:
    sizes = (kernel, stride, padding, dilation, ceil_mode)
    return torch.ops.aten.max_pool2d_with_indices_backward(gradient, images, *sizes, indices)  # type: ignore[no-any-return]


def _kernel(images: Tensor, *sizes: Any) -> tuple[Tensor, Tensor]:
    pooled, indices = torch.ops.aten.max_pool2d_with_indices(images, *sizes)
    return pooled, indices


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    images, *ctx.sizes = inputs
    ctx.save_for_backward(images, output[1])


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return _max_pool_backward(gradient, *ctx.saved_tensors, *ctx.sizes), None, None, None, None, None


_max_pool.register_fake(_kernel)
_max_pool.register_autograd(_gradients, setup_context=_keep)
_max_pool_backward.register_fake(lambda gradient, images, *rest: torch.empty_like(images))
