"""Penultimate features and batch-norm inputs of a classifier, recorded by hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor, nn

from wmdd.errors import ConfigError


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
        self._pass_on: Callable[[Tensor], Tensor] | None = None

    def __enter__(self) -> Self:
        layers = [module for module in self._model.modules() if isinstance(module, nn.BatchNorm2d)]
        self._handles = [layer.register_forward_pre_hook(self._on_batch_norm) for layer in layers]
        self._handles.append(self._head.register_forward_pre_hook(self._on_head))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def run(
        self, images: Tensor, pass_on: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return logits, features (n, d) and batch-norm inputs of (n, 3, h, w) images.

        Args:
            pass_on: called with each batch-norm input, in order; returns what the layer gets in its place. Then no
                inputs are recorded.
        """
        self.bn_inputs, self.features, self._pass_on = [], None, pass_on
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

    def _on_batch_norm(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | None:
        if self._pass_on is not None:
            return self._pass_on(inputs[0])
        self.bn_inputs.append(inputs[0])
        return None

    def _on_head(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0]
        # A convolutional head (SqueezeNet) is pooled after it; pooling its input gives the same average.
        self.features = features.mean(dim=(2, 3)) if isinstance(layer, nn.Conv2d) else features.flatten(1)


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
