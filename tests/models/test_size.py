"""Sizes of networks by name, against the networks themselves."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wmdd.errors import ConfigError
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.models.size import network_size


@pytest.mark.parametrize(
    ("name", "size", "stem"),
    [
        ("convnet3_w64", 16, "auto"),
        ("convnet4", 40, "auto"),
        ("resnet18", 32, "auto"),
        ("mobilenet_v2", 64, "standard"),
    ],
)
def test_size_is_that_of_the_network(name, size, stem):
    network, images = build_model(name, 7, size, stem=stem).eval(), torch.zeros(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    with Probe(network, 7) as probe, torch.no_grad():
        _, features, norm_inputs = probe.run(images)
    expected = network_size(name, 7, size, stem)
    assert expected.flops == counter.get_total_flops()
    assert expected.weight_bytes == sum(tensor.nbytes for tensor in network.state_dict().values())
    assert expected.features == features.shape[1]
    assert expected.norm_channels == sum(inputs.shape[1] for inputs in norm_inputs)


def test_size_draws_from_no_generator(monkeypatch):
    def skeleton(*arguments, **options):
        return build_model(*arguments, **options)  # as for a network that computes with its weights

    monkeypatch.setattr("wmdd.models.registry.skeleton", skeleton)
    state = torch.get_rng_state()
    network_size("resnet18", 3, 24, "auto")
    assert torch.equal(torch.get_rng_state(), state)


def test_attention_counts():
    # Three products with 4 x 768 x 768 weights in each of 12 blocks for 197 tokens, and the two of tokens with tokens.
    blocks = 12 * (2 * 197 * 12 * 768 * 768 + 4 * 197 * 197 * 768)
    assert network_size("vit_b_16", 10, 224, "auto").flops == pytest.approx(blocks, rel=0.01)


def test_unknown_network_is_refused():
    with pytest.raises(ConfigError, match="resnet19"):
        network_size("resnet19", 10, 32, "auto")
