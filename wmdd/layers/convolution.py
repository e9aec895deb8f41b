"""Convolutions at few positions: without the multiplications by padding, and as matrix products where they are ones.

A 3 x 3 convolution of 1 x 1 positions multiplies eight of its nine taps with zeros, and CPU kernels take as long as for
all others. At 32 px, the last stage of a ResNet-18 with the standard stem has such layers alone.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def trim_kernels(network: nn.Module) -> None:
    """Turn a network's plain convolutions into trimmed ones, which have the same weights and names."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = TrimmedConv2d


class TrimmedConv2d(nn.Conv2d):
    """A convolution that leaves out the rows and columns of its kernel that meet only padding, as at 1 x 1 positions.

    Besides their cost: in oneDNN's bf16 kernels for CPUs with AMX, their weight gradient is uninitialised memory (seen
    with torch 2.11 and 2.15), up to 1e37 or NaN in place of 0.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return the convolution of (n, channels, h, w) images."""
        axes = zip(images.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        (rows, down), (columns, across) = (_trimmed(*axis) for axis in axes)  # type: ignore[arg-type]
        whole = rows.stop - rows.start == self.kernel_size[0] and columns.stop - columns.start == self.kernel_size[1]
        weight = self.weight if whole else self._part(rows, columns)
        spread = any(dilation > 1 < taps for dilation, taps in zip(self.dilation, weight.shape[-2:], strict=True))
        if self.groups == 1 and down == across == 0 and images.shape[-2:] == weight.shape[-2:] and not spread:
            # One position: a matrix product, whose gradients take a tenth of the time.
            return F.linear(images.flatten(1), weight.flatten(1), self.bias)[:, :, None, None]
        return F.conv2d(images, weight, self.bias, self.stride, (down, across), self.dilation, self.groups)

    def _part(self, rows: slice, columns: slice) -> Tensor:
        """Return the part of the kernel that meets pixels; of a frozen kernel, a copy that is kept until it changes.

        A change through `weight.data` in place is not noticed.
        """
        if self.weight.requires_grad:
            return cast(Tensor, _Part.apply(self.weight, rows, columns))
        # First the compiler, which cannot trace the question for inference mode.
        if torch.compiler.is_compiling() or self.weight.is_inference() or torch.is_inference_mode_enabled():
            return self.weight[:, :, rows, columns]
        # Identifies the part, and the weight's values by their address and version.
        key = rows.start, rows.stop, columns.start, columns.stop, self.weight.data_ptr(), self.weight._version
        kept: tuple[Any, Tensor, Tensor] | None = self.__dict__.get("_kept")
        if kept is None or kept[0] != key:
            weight = self.weight.detach()  # kept, too, so that no other weight gets its address
            part = weight[:, :, rows, columns].contiguous(memory_format=torch.channels_last)
            kept = self.__dict__["_kept"] = key, part, weight
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the kept part, for copies."""
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}


def _trimmed(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[slice, int]:
    """Return the part of a kernel that meets pixels along an axis, and the padding that it needs."""
    last = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride  # number of the last output
    start = max(0, -((last * stride - padding) // dilation))
    stop = min(kernel, (size - 1 + padding) // dilation + 1)
    needed = padding - start * dilation
    # The padding is the same on both sides, and the number of outputs stays.
    fits = (size + 2 * needed - dilation * (stop - start - 1) - 1) // stride == last
    return (slice(start, stop), needed) if fits and start < stop and needed >= 0 else (slice(0, kernel), padding)


class _Part(torch.autograd.Function):
    """Some rows and columns of kernels; the gradient has the layout of the whole, where torch's is copied twice."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: slice, columns: slice) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.part = (slice(None), slice(None), rows, columns)
        return weight[ctx.part]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        whole = torch.zeros_like(ctx.saved_tensors[0])
        whole[ctx.part] = gradient
        return whole, None, None
