"""Penultimate features and batch-norm inputs of a classifier, recorded by hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor, nn

from wmdd.errors import ConfigError

Normalize = Callable[[Tensor, Tensor, Tensor], Tensor]


class Probe:
    """Records features and batch-norm inputs at each forward pass inside the ``with`` block.

    Attributes:
        features: (n, d), input of the last linear (or 1x1 convolution) layer, flattened.
        bn_inputs: one (n, channels, h, w) per batch-norm layer, in the order of execution.

    Raises:
        ConfigError: if the network has no layer of `num_classes` outputs.
    """

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        self._model = model
        self._head = _head(model, num_classes)
        self.features: Tensor | None = None
        self.bn_inputs: list[Tensor] = []
        self._normalize: Normalize | None = None

    def __enter__(self) -> Self:
        self._layers = [module for module in self._model.modules() if isinstance(module, nn.BatchNorm2d)]
        self._handles = [layer.register_forward_pre_hook(self._on_batch_norm) for layer in self._layers]
        self._handles.append(self._head.register_forward_pre_hook(self._on_head))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for layer in self._layers:
            if type(layer) is _Normalized:
                layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
        self._normalize = None  # it may hold this probe, and both the network

    def normalize_by(self, normalize: Normalize) -> None:
        """Call a function in place of each batch-norm layer, in order, inside the block; none records its input then.

        Args:
            normalize: from a layer's inputs, scale and shift, (channels,) float32 each, to the inputs times scale plus
                shift. If a layer does more than that, it is called with 1 and 0 before it.
        """
        self._normalize = normalize
        for layer in self._layers:
            if type(layer) is nn.BatchNorm2d and not layer.training and layer.running_var is not None:
                layer.__class__ = _Normalized

    def run(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return logits, features (n, d) and batch-norm inputs of (n, 3, h, w) images."""
        self.bn_inputs, self.features = [], None
        logits: Tensor = self._model(images)
        return logits, cast(Tensor, self.features), self.bn_inputs

    @torch.no_grad()
    def running_moments(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the network's running mean and variance, (channels,) each, for each entry of `bn_inputs`."""
        order: list[nn.BatchNorm2d] = []
        layers = [module for module in self._model.modules() if isinstance(module, nn.BatchNorm2d)]
        handles = [layer.register_forward_pre_hook(lambda layer, _: order.append(layer)) for layer in layers]
        self.run(images)
        for handle in handles:
            handle.remove()
        return [(cast(Tensor, layer.running_mean), cast(Tensor, layer.running_var)) for layer in order]

    def _on_batch_norm(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> Tensor | None:
        if self._normalize is None:
            self.bn_inputs.append(inputs[0])
            return None
        return self._normalize(inputs[0], *_scale_and_shift(layer, inputs[0]))

    def _on_head(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0]
        # A convolutional head (SqueezeNet) is pooled after it; pooling its input gives the same average.
        self.features = features.mean(dim=(2, 3)) if isinstance(layer, nn.Conv2d) else features.flatten(1)


class _Normalized(nn.BatchNorm2d):
    """A layer whose input is normalised already."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images


def _scale_and_shift(layer: nn.BatchNorm2d, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a layer in evaluation multiplies and adds, (channels,) each; 1 and 0 for one that does it itself."""
    mean, var = cast(Tensor, layer.running_mean), cast(Tensor, layer.running_var)
    if type(layer) is not _Normalized:
        ones = torch.ones(layer.num_features, device=inputs.device)
        return ones, torch.zeros_like(ones)
    scale = torch.rsqrt(var + layer.eps)
    scale = scale if layer.weight is None else scale * layer.weight
    return scale, -mean * scale if layer.bias is None else layer.bias - mean * scale


@torch.no_grad()
def head_logits(model: nn.Module, num_classes: int, features: Tensor) -> Tensor:
    """Return the (n, classes) float32 logits of (n, d) features that a `Probe` recorded, on the host.

    A convolutional head (SqueezeNet) is applied to pooled features, before what follows it.
    """
    head = _head(model, num_classes)
    inputs = features.to(next(head.parameters()))
    logits: Tensor = head(inputs[:, :, None, None] if isinstance(head, nn.Conv2d) else inputs)
    return logits.flatten(1).float().cpu()


def _head(model: nn.Module, num_classes: int) -> nn.Module:
    heads = [
        module
        for module in model.modules()
        if (isinstance(module, nn.Linear) and module.out_features == num_classes)
        or (isinstance(module, nn.Conv2d) and module.out_channels == num_classes and module.kernel_size == (1, 1))
    ]
    if not heads:
        raise ConfigError(f"{type(model).__name__} has no layer with {num_classes} outputs to take features from")
    return heads[-1]
