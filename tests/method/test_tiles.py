"""Tiles: images of which each holds several smaller ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wmdd.config.recovery import RecoverConfig
from wmdd.errors import ConfigError
from wmdd.method.artifacts import DistilledClass, ImageSet
from wmdd.method.tiles import decode, encode, enlargement, join, split


def images(count, size=8):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8))


def test_split_and_join_are_inverse():
    whole = images(3, 12)
    for tiles in (1, 2, 3):
        parts = split(whole, tiles)
        assert parts.shape == (3 * tiles**2, 3, 12 // tiles, 12 // tiles)
        assert torch.equal(join(parts, tiles), whole)
    # Row by row, those of an image one after another.
    assert torch.equal(split(whole, 2)[5], whole[1, :, :6, 6:])


def test_enlargement_is_bilinear():
    small = images(2, 4).float()
    matrix = enlargement(8, 2)
    expected = F.interpolate(small, size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(matrix @ small @ matrix.T, expected, atol=1e-4)


def test_decoded_tiles_are_enlarged_images():
    stored = images(2)
    expected = F.interpolate(split(stored, 2).float(), size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(decode(stored, 2), expected.round().byte())
    assert decode(stored, 1) is stored


def test_encoded_images_are_averaged():
    whole = images(4)
    stored = encode(whole, 2)
    assert stored.shape == (1, 3, 8, 8)
    assert torch.equal(split(stored, 2), F.avg_pool2d(whole.float(), 2).round().byte())
    even = torch.full((4, 3, 8, 8), 77, dtype=torch.uint8)
    assert torch.equal(decode(encode(even, 2), 2), even)


def test_set_holds_enlarged_tiles_with_their_share_of_the_mass():
    classes = [
        DistilledClass(class_id, images(2), torch.tensor([0.25, 0.75]), sources=tuple(range(8)), tiles=2)
        for class_id in range(2)
    ]
    whole = ImageSet.of(classes)
    assert len(whole) == 16
    assert torch.equal(whole.images[:8], decode(images(2), 2))
    assert whole.labels.tolist() == [0] * 8 + [1] * 8
    assert torch.allclose(whole.mass[:8], torch.tensor([0.0625] * 4 + [0.1875] * 4))


def test_tiles_need_statistics_of_their_class():
    with pytest.raises(ConfigError, match=r"recover\.tiles=2: tiles need .*recover\.bn_target"):
        RecoverConfig(bn_target="global", tiles=2)
