"""Max-pooling in compiled networks: one call of torch's kernel, with its values and gradients."""

import itertools

import pytest
import torch
from builders import CPU
from torch import library, nn

from wmdd.models.registry import build_model
from wmdd.seeding import SeedTree

SHAPES = list(itertools.product((2, [3, 2]), (None, (1, 2)), (0, 1), (1, 2), (False, True)))


@pytest.fixture(autouse=True)
def forget_compiled():
    torch._dynamo.reset()


def compiled(layer, backend="aot_eager"):
    """Return a layer that torch.compile traces forward and backward, and that runs without generated code."""
    return torch.compile(layer, dynamic=False, backend=backend)


def pooled(layer, images):
    """Return the maxima, and the gradient of their sum weighted by position."""
    images = images.clone().requires_grad_()
    maxima = layer(images)
    (maxima * torch.arange(maxima.numel()).view_as(maxima)).sum().backward()
    return maxima.detach(), images.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_compiled_pooling_is_torchs(shape, dtype):
    images = torch.randn(2, 3, 9, 10, generator=SeedTree(0).torch()).round(decimals=1).to(dtype)  # with ties
    layers = [nn.MaxPool2d(*shape[:4], ceil_mode=shape[4]) for _ in range(2)]
    layers[1] = compiled(CPU.place(layers[1]))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        expected, found = (pooled(layer, images.contiguous(memory_format=memory_format)) for layer in layers)
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (0, 2, 3, 1)])
def test_operators_say_what_torch_needs_to_know_of_them(order):
    """Their gradients, and the shapes, types and memory formats of what they return."""
    images = torch.rand(2, 6, 7, 8, generator=SeedTree(0).torch()).permute(order).requires_grad_()
    sizes = [3, 3], [2, 2], [1, 1], [1, 1], False
    library.opcheck(torch.ops.wmdd.max_pool, (images, *sizes))
    maxima, indices = torch.ops.wmdd.max_pool(images.detach(), *sizes)
    library.opcheck(torch.ops.wmdd.max_pool_backward, (maxima, images.detach(), indices, *sizes))


def test_compiler_sees_one_call_for_each_pooling():
    codes = []

    def backend(graph, _):
        codes.append(graph.code)
        return graph

    with SeedTree(0).scoped():
        network = CPU.place(build_model("resnet18", 3, 32, stem="standard")).eval()
    compiled(network, backend)(torch.zeros(1, 3, 32, 32))
    assert "".join(codes).count("wmdd.max_pool") == 1
    assert "max_pool2d" not in "".join(codes)


def test_pooling_with_indices_stays():
    layer = CPU.place(nn.MaxPool2d(2, return_indices=True))
    assert type(layer) is nn.MaxPool2d
