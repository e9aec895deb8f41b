"""Further changes of views and batches: torchvision's own, in range, and drawn from the seed."""

import typing

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2

from wmdd.config.base import Augment
from wmdd.config.recipes import recipe
from wmdd.data.augment import _each, augmentation, erasing, mixing
from wmdd.data.batches import _repeated
from wmdd.normalization import NORMALIZATIONS
from wmdd.seeding import SeedTree

PIXELS = NORMALIZATIONS["half"]


def images():
    return PIXELS.normalize(torch.randint(0, 256, (6, 3, 8, 8), generator=SeedTree(4).torch(), dtype=torch.uint8))


def mix(name, classes, images, labels, seed=0):
    section = recipe("digits").pretrain.model_copy(update={"mix": name})
    with SeedTree(seed).scoped():
        return mixing(section, classes)(images, labels)


@pytest.mark.parametrize("name", [name for name in typing.get_args(Augment) if name != "none"])
def test_changes_stay_in_range_and_follow_the_seed(name):
    change, views = augmentation(name, PIXELS), []
    for seed in (1, 1, 2):
        with SeedTree(seed).scoped():
            views.append(torch.stack([change(images()) for _ in range(3)]))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert views[0].shape == (3, 6, 3, 8, 8)
    assert views[0].abs().max() <= 1.0 + 1e-6


@pytest.mark.parametrize(
    ("name", "kind", "option"), [("randaugment", v2.RandAugment, "magnitude"), ("augmix", v2.AugMix, "severity")]
)
def test_strength_is_torchvisions(name, kind, option):
    pixels = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    for strength, options in ((0, {}), (7, {option: 7})):
        torch.manual_seed(3)
        expected = kind(**options)(pixels[0])
        torch.manual_seed(3)
        assert torch.equal(_each(name, strength)(pixels)[0], expected)


def test_images_are_erased_by_chance():
    with SeedTree(0).scoped():
        erased = erasing(1.0)(images())
    assert ((erased == 0).flatten(1).sum(dim=1) > 0).all()


def test_options_that_are_off_change_nothing():
    same = images()
    assert erasing(0.0)(same) is same
    assert augmentation("none", PIXELS)(same) is same


@pytest.mark.parametrize("name", ["mixup", "cutmix", "either"])
def test_labels_are_mixed_as_images_are(name):
    mixed, shares = mix(name, 3, images(), torch.arange(6) % 3)
    assert (mixed.shape, shares.shape) == ((6, 3, 8, 8), (6, 3))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))
    assert (shares.max(dim=1).values < 1).any()


def test_either_mixture_is_drawn():
    plain, kinds = torch.arange(6.0)[:, None, None, None].expand(6, 3, 8, 8).clone(), set()
    for seed in range(30):
        flat = mix("either", 6, plain, torch.arange(6), seed)[0].flatten(1)
        if (flat != plain.flatten(1)).any():
            # Whole images mixed stay even; a pasted box leaves two values.
            kinds.add("mixup" if (flat.std(dim=1) < 1e-6).all() else "cutmix")
    assert kinds == {"mixup", "cutmix"}


def test_repeated_images_keep_the_length_of_an_epoch():
    assert _repeated(np.array([4, 2, 0, 3, 1]), 3).tolist() == [4, 4, 4, 2, 2]
    assert _repeated(np.arange(4), 1).tolist() == [0, 1, 2, 3]
