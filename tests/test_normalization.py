"""Constants of normalisation: they lose no pixel, and bound the valid range."""

import pytest
import torch

from wmdd.normalization import NORMALIZATIONS


@pytest.mark.parametrize("name", sorted(NORMALIZATIONS))
def test_normalization_and_back_changes_no_pixel(name):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    constants = NORMALIZATIONS[name]
    assert torch.equal(constants.denormalize(constants.normalize(pixels)), pixels)
    low, high = constants.bounds(torch.zeros(1))
    assert constants.normalize(pixels).amin(dim=(0, 2, 3)).tolist() == pytest.approx(low.flatten().tolist())
    assert constants.normalize(pixels).amax(dim=(0, 2, 3)).tolist() == pytest.approx(high.flatten().tolist(), abs=1e-5)
