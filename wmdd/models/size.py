"""The size of a network by its name: operations of a forward pass, bytes of weights, widths of layers.

ConvNets are computed by formula. Of other networks torch counts a forward pass without memory for weights or images.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from wmdd.config.base import Stem
from wmdd.errors import ConfigError
from wmdd.models.names import convnet_shape
from wmdd.seeding import SeedTree


@dataclass(frozen=True)
class NetworkSize:
    """The size of a network.

    Args:
        flops: floating-point operations of the forward pass of one image, in convolutions, matrix products and
            attention; a multiplication and its addition are two.
        weight_bytes: of its state dict.
        features: width of the penultimate layer; 0 if no layer has one output for each class.
        norm_channels: of all batch-norm layers together.
    """

    flops: int
    weight_bytes: int
    features: int
    norm_channels: int


@functools.cache
def network_size(name: str, num_classes: int, image_size: int, stem: Stem) -> NetworkSize:
    """Return the size of a network that `build_model` builds; raise a ConfigError as it does."""
    if shape := convnet_shape(name):
        return _of_convnet(*shape, num_classes, image_size)
    return _counted(name, num_classes, image_size, stem)


def _of_convnet(depth: int, width: int, num_classes: int, image_size: int) -> NetworkSize:
    products = weights = 0
    for block in range(depth):
        kernel = 9 * (width if block else 3) * width
        products += kernel * (image_size >> block) ** 2
        weights += kernel + 4 * width  # batch-norm: weight, bias, mean, variance
    features = width * (image_size >> depth) ** 2
    head = features * num_classes
    weight_bytes = 4 * (weights + head + num_classes) + 8 * depth  # batch-norm counts its batches, in int64
    return NetworkSize(2 * (products + head), weight_bytes, features, depth * width)


def _counted(name: str, num_classes: int, image_size: int, stem: Stem) -> NetworkSize:
    import torch  # for seconds, which the plan of ConvNets does without
    from torch.utils.flop_counter import FlopCounterMode

    from wmdd.models.probes import Probe
    from wmdd.models.registry import skeleton

    with SeedTree(0).scoped():  # a constructor that computes with its weights draws them
        network = skeleton(name, num_classes, image_size, stem=stem).eval()
    images = torch.zeros(1, 3, image_size, image_size, device=next(network.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    features = 0
    try:
        with Probe(network, num_classes) as probe, torch.no_grad():
            features = probe.run(images)[1].shape[1]
    except ConfigError:
        pass  # a student needs none
    norms = (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    return NetworkSize(
        flops=int(counter.get_total_flops()),
        weight_bytes=sum(tensor.nbytes for tensor in network.state_dict().values()),
        features=features,
        norm_channels=sum(norm.num_features for norm in norms),
    )
