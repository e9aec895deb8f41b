"""How many images a network evaluates together."""

import dataclasses

import pytest
from builders import CPU
from torch import nn

from wmdd.training.accuracy import images_per_pass

SIZE = 8
VALUES = 3 * SIZE**2 + 4 * SIZE**2 + 4 * SIZE**2 + 5  # the image, the convolution, its activation, the head


@pytest.mark.parametrize("training", [False, True])
def test_values_of_all_layers_decide_how_many(training):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    network = nn.Sequential(layers, nn.Flatten(0), nn.Linear(4 * SIZE**2, 5)).train(training)
    network[1].eval()
    values = VALUES + 4 * SIZE**2  # flattened
    for images in (500, 1250):
        for missing, together in ((0, images), (1, images - 250)):
            runtime = dataclasses.replace(CPU, device_bytes=32 * values * images - missing)
            assert images_per_pass(network, SIZE, runtime) == together
    assert images_per_pass(network, SIZE, dataclasses.replace(CPU, device_bytes=32 * values)) == 250
    assert [module.training for module in network] == [training, False, training]
    assert not any(module._forward_hooks for module in network.modules())
    assert images_per_pass(network, SIZE, CPU) == 250
