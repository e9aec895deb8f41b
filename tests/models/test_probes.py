"""What a probe sees in a network: features and batch-norm inputs."""

import pytest
import torch
from tables import each_of
from torch import nn

from wmdd.errors import ConfigError
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.seeding import SeedTree


def images(n, size, device="cpu"):
    if device == "meta":
        return torch.empty(n, 3, size, size, device="meta")
    return torch.randn(n, 3, size, size, generator=SeedTree(0).torch())


def head_of(model):
    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]


@each_of("name", ["convnet3_w16", "resnet18", "mobilenet_v2", "timm/resnet10t"])
def test_probe_features_are_the_input_of_the_head(name):
    model = build_model(name, 5, 32).eval()
    with Probe(model, 5) as probe, torch.no_grad():
        logits, features, _ = probe.run(images(3, 32))
    head = head_of(model)
    assert features.shape == (3, head.in_features)
    torch.testing.assert_close(head(features), logits)


def test_probe_pools_features_of_a_convolutional_head():
    model = build_model("squeezenet1_1", 5, 64).eval()
    with Probe(model, 5) as probe, torch.no_grad():
        logits, features, _ = probe.run(images(2, 64))
    assert features.shape == (2, 512)
    assert logits.shape == (2, 5)


@each_of("name", ["convnet3_w16", "resnet18", "timm/resnet10t"])
def test_probe_sees_batch_norm_inputs_in_order(name):
    model = build_model(name, 5, 32).eval()
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with Probe(model, 5) as probe, torch.no_grad():
        _, _, inputs = probe.run(images(2, 32))
        _, _, again = probe.run(images(2, 32))
    assert len(inputs) == len(again) == len(layers)
    assert [item.shape[1] for item in inputs] == [layer.num_features for layer in layers]
    assert all(map(torch.equal, inputs, again))


def test_first_batch_norm_input_is_a_convolution():
    model = build_model("convnet3_w16", 5, 16).eval()
    with Probe(model, 5) as probe, torch.no_grad():
        _, _, inputs = probe.run(images(2, 16))
        torch.testing.assert_close(inputs[0], model.blocks[0](images(2, 16)))


def test_probe_passes_gradients_to_the_images():
    model = build_model("convnet3_w16", 5, 16).eval().requires_grad_(False)
    shown = images(2, 16).requires_grad_(True)
    with Probe(model, 5) as probe:
        _, features, inputs = probe.run(shown)
    (features.sum() + inputs[-1].square().sum()).backward()
    assert shown.grad.abs().sum() > 0


def hooks(model):
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_probe_removes_its_hooks_even_after_an_error():
    model = build_model("convnet3_w16", 5, 16)
    with Probe(model, 5):
        assert hooks(model) == 4
    with pytest.raises(RuntimeError, match="channels"), Probe(model, 5) as probe:
        probe.run(torch.zeros(2, 7, 16, 16))
    assert hooks(model) == 0


def test_probe_leaves_the_logits_alone():
    model = build_model("convnet3_w16", 5, 16).eval()
    with torch.no_grad():
        before = model(images(2, 16))
        with Probe(model, 5) as probe:
            assert torch.equal(probe.run(images(2, 16))[0], before)


def test_probe_refuses_another_number_of_classes():
    with pytest.raises(ConfigError, match="ConvNet has no layer with 6 outputs"):
        Probe(build_model("convnet3_w16", 5, 16), 6)


@pytest.mark.parametrize("model", ["resnet18", "convnet3_w16"])
def test_layers_normalized_by_a_function_give_the_same_outputs(model):
    network = build_model(model, 5, 32).eval()
    for layer in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2.0)
    images = torch.randn(2, 3, 32, 32, generator=SeedTree(0).torch())
    seen = []

    def normalize(inputs, scale, shift):
        seen.append(inputs)
        return inputs * scale[:, None, None] + shift[:, None, None]

    with Probe(network, 5) as probe, torch.no_grad():
        logits, features, recorded = probe.run(images)
        probe.normalize_by(normalize)
        again = probe.run(images)
    assert again[2] == []
    torch.testing.assert_close(again[0], logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again[1], features, rtol=1e-4, atol=1e-5)
    for inputs, expected in zip(seen, recorded, strict=True):
        torch.testing.assert_close(inputs, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(images), logits)
    assert not any("Normalized" in type(module).__name__ for module in network.modules())


class Activated(nn.BatchNorm2d):
    def forward(self, images):
        return super().forward(images).relu()


def test_a_layer_that_does_more_than_normalize_still_does_it():
    network = nn.Sequential(Activated(3), nn.Flatten(), nn.Linear(12, 5)).eval()
    images = torch.randn(2, 3, 2, 2, generator=SeedTree(0).torch())
    with Probe(network, 5) as probe, torch.no_grad():
        probe.normalize_by(lambda inputs, scale, shift: inputs * scale[:, None, None] + shift[:, None, None])
        torch.testing.assert_close(probe.run(images)[0], network(images))
        assert probe.features.min() == 0
