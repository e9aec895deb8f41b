"""A network with folded batch-norm is the same function; what cannot be folded stays."""

import copy

import pytest
import torch
from builders import normal
from tables import each_of
from torch import nn

from wmdd.models.folding import folded
from wmdd.models.registry import build_model
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree


def norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def trained(network):
    """With running averages, scales and shifts as training leaves them."""
    generator = SeedTree(1).torch()
    for norm in norms(network):
        norm.running_mean.normal_(std=0.1, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(norm.bias, std=0.1, generator=generator)
    return network.eval()


def logits(network, size):
    with torch.no_grad():
        return network(normal(4, 3, size, size))


# Network, image size, and the batch-norm layers that are left: in DenseNet they read concatenations, in
# ResNet-v2 sums, and timm's EfficientNet has layers with an activation inside.
NETWORKS = [
    ("convnet3_w16", 16, 0),
    ("resnet18", 32, 0),
    ("mobilenet_v2", 32, 0),
    ("densenet121", 32, 62),
    ("timm/resnet10t", 32, 0),
    ("timm/resnetv2_50", 32, 49),
    ("timm/efficientnet_b0", 32, 49),
    ("squeezenet1_1", 64, 0),
]


@each_of(("name", "size", "left"), NETWORKS)
def test_folded_network_is_the_same_function(name, size, left):
    with SeedTree(0).scoped():
        network = trained(build_model(name, 5, size))
    before = copy.deepcopy(network.state_dict())
    found = folded(network, size)
    assert len(norms(found)) == left
    torch.testing.assert_close(logits(found, size), logits(network, size), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in found.modules())


@each_of("name", ["resnet18", "timm/resnetv2_50"])
def test_folded_network_shares_no_memory_with_its_source(name):
    with SeedTree(0).scoped():
        network = trained(build_model(name, 5, 32))
    before = copy.deepcopy(network.state_dict())
    for tensor in folded(network, 32).state_dict().values():
        tensor.zero_()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(weight.requires_grad for weight in network.parameters())


class _Parts(nn.Module):
    def __init__(self, forward, **options):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 3, padding=1), *(nn.BatchNorm2d(3, **options) for _ in "ab")
        self._way = forward

    def forward(self, images):
        return self._way(self, images).mean(dim=(2, 3))


def _added(parts, images):
    features = parts.conv(images)
    return parts.norm(features) + features


def _changed_in_place(parts, images):
    features = parts.conv(images)
    normed = parts.norm(features)
    return normed + features.detach().mul_(2)


def _normed_twice(parts, images):
    features = parts.conv(images)
    return parts.norm(features) + parts.other(features)


LEFT = {
    "read again": _added,
    "read without a gradient": _changed_in_place,
    "read by two norms": _normed_twice,
    "read before": lambda parts, images: parts.norm(parts.conv(images).relu_()),
    "run twice": lambda parts, images: parts.norm(parts.conv(parts.conv(images))),
    "a norm for two": lambda parts, images: parts.norm(parts.norm(parts.conv(images))),
}


@pytest.mark.parametrize("way", LEFT)
def test_what_else_reads_a_convolution_keeps_its_batch_norm(way):
    with SeedTree(0).scoped():
        network = trained(_Parts(LEFT[way]))
    found = folded(network, 8)
    assert len(norms(found)) == 2
    assert torch.equal(logits(found, 8), logits(network, 8))


@each_of("options", [{"affine": False}, {"eps": 0.5}, {"track_running_stats": False}])
def test_batch_norm_with_options_is_folded_if_it_keeps_averages(options):
    tracks = options.get("track_running_stats", True)
    with SeedTree(0).scoped():
        network = _Parts(lambda parts, images: parts.norm(parts.conv(images)), **options).eval()
    network = trained(network) if tracks else network
    found = folded(network, 8)
    assert len(norms(found)) == (1 if tracks else 2)
    torch.testing.assert_close(logits(found, 8), logits(network, 8), rtol=1e-5, atol=1e-5)


@each_of("name", ["resnet18", "timm/convnext_atto", "vit_b_16"])
def test_rounded_weights_give_the_bits_of_autocast(name):
    runtime = Runtime(torch.device("cpu"), bf16=True, threads=1)
    with SeedTree(0).scoped():
        network = runtime.place(build_model(name, 5, 32)).eval().requires_grad_(False)
    images = runtime.images(normal(2, 3, 32, 32))
    with runtime.autocast():
        expected = network(images)
        assert torch.equal(runtime.round_weights(network)(images), expected)


def test_weights_are_rounded_in_bf16_alone():
    network = build_model("convnet1_w8", 5, 16)
    Runtime(torch.device("cpu"), bf16=False, threads=1).round_weights(network)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    Runtime(torch.device("cpu"), bf16=True, threads=1).round_weights(network)
    assert network.head.weight.dtype == network.blocks[0].weight.dtype == torch.bfloat16
    assert network.blocks[1].weight.dtype == torch.float32


class Named(nn.Module):
    """A network whose batch-norm has two names, the second of which is called."""

    def __init__(self):
        super().__init__()
        self.convolution, self.first = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.second = self.first
        nn.init.uniform_(self.first.running_mean, 1, 2)

    def forward(self, images):
        return self.second(self.convolution(images))


def test_batch_norm_of_two_names_is_folded_under_both():
    network = Named().eval()
    images = torch.randn(2, 3, 8, 8, generator=SeedTree(0).torch())
    with torch.no_grad():
        torch.testing.assert_close(folded(network, 8)(images), network(images), rtol=1e-5, atol=1e-5)
