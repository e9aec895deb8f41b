"""Views beyond the plain case: upscaling, groups, extreme shapes, gradients, and CutMix's boxes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tables import each_of

from wmdd.data.views import (
    Views,
    apply_mix,
    apply_views,
    draw_mix_box,
    draw_resized_crops,
    draw_shifts,
    sample_views,
    view_matrices,
)
from wmdd.seeding import SeedTree


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=SeedTree(seed).torch())


def slow_view(image, views, i, target):
    """Cut the crop out, resize, flip, roll: one image at a time, as a reader would write it."""
    top, left, height, width = views.box[i].tolist()
    cut = image[None, :, top : top + height, left : left + width]
    seen = F.interpolate(cut, size=(target, target), mode="bilinear", align_corners=False, antialias=False)[0]
    seen = torch.flip(seen, dims=[2]) if views.flip[i] else seen
    return torch.roll(seen, shifts=views.roll[i].tolist(), dims=(1, 2))


def show(images, views, target):
    return apply_views(images, *view_matrices(views, tuple(images.shape[-2:]), target))


WAYS = [show, sample_views]


@each_of(("source", "target"), [((7, 31), 16), ((40, 9), 8), ((5, 5), 33), ((1, 12), 4), ((64, 64), 3)])
@each_of("way", WAYS)
def test_views_of_any_shape_equal_the_slow_loop(source, target, way):
    images = uniform(24, 3, *source)
    views = draw_resized_crops(SeedTree(1).numpy(), 24, source, (0.08, 1.0), flip=True, roll_px=target)
    expected = torch.stack([slow_view(images[i], views, i, target) for i in range(24)])
    torch.testing.assert_close(way(images, views, target), expected, atol=1e-5, rtol=0)


def test_whole_image_at_its_own_size_is_the_image():
    images = uniform(3, 2, 8, 8)
    still = Views(torch.tensor([[0, 0, 8, 8]] * 3), torch.zeros(3).bool(), torch.zeros(3, 2, dtype=torch.int32))
    assert torch.equal(show(images, still, 8), images)


def test_flip_comes_before_the_roll():
    image = torch.arange(4.0).expand(1, 1, 4, 4)
    views = Views(torch.tensor([[0, 0, 4, 4]]), torch.tensor([True]), torch.tensor([[0, 1]]))
    assert show(image, views, 4)[0, 0, 0].tolist() == [0, 3, 2, 1]


def test_images_of_a_group_share_their_view():
    images = uniform(4, 5, 3, 12, 12)
    views = draw_resized_crops(SeedTree(2).numpy(), 4, (12, 12), (0.2, 1.0), flip=True, roll_px=3)
    together = show(images, views, 12)
    for i in range(5):
        torch.testing.assert_close(together[:, i], show(images[:, i], views, 12), atol=1e-6, rtol=0)


def test_views_of_one_class_do_not_depend_on_the_stack():
    parts = [draw_resized_crops(SeedTree(c).numpy(), 6, (9, 9), (0.1, 1), flip=True, roll_px=2) for c in range(3)]
    stacked = Views.stack(parts)
    assert len(stacked) == 6
    rows, columns = view_matrices(stacked[4], (9, 9), 9)
    own_rows, own_columns = view_matrices(parts[1][4:5], (9, 9), 9)
    assert torch.equal(rows[1:2], own_rows)
    assert torch.equal(columns[1:2], own_columns)


def test_gradient_of_a_view_is_that_of_interpolation():
    images = uniform(6, 3, 10, 14).requires_grad_(True)
    views = draw_resized_crops(SeedTree(3).numpy(), 6, (10, 14), (0.2, 1), flip=True, roll_px=3)
    into = uniform(6, 3, 12, 12, seed=9)
    (show(images, views, 12) * into).sum().backward()
    ours, images.grad = images.grad, None
    (torch.stack([slow_view(images[i], views, i, 12) for i in range(6)]) * into).sum().backward()
    torch.testing.assert_close(ours, images.grad, atol=1e-5, rtol=0)


def test_views_stay_float32_under_autocast():
    images = uniform(2, 3, 9, 9)
    views = draw_resized_crops(SeedTree(4).numpy(), 2, (9, 9), (0.2, 1), flip=True)
    outside = show(images, views, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(show(images, views, 9), outside)
        torch.testing.assert_close(sample_views(images, views, 9), outside, atol=1e-5, rtol=0)


def test_rows_of_the_maps_are_averages():
    views = draw_resized_crops(SeedTree(5).numpy(), 50, (13, 21), (0.08, 1), flip=True, roll_px=5)
    for matrix in view_matrices(views, (13, 21), 17):
        assert matrix.min() >= 0
        torch.testing.assert_close(matrix.sum(-1), torch.ones(50, 17), atol=1e-5, rtol=0)


@each_of("size", [(224, 224), (120, 300), (300, 120)])
def test_crops_stay_inside_torchvisions_bounds(size):
    box = draw_resized_crops(SeedTree(6).numpy(), 3000, size, (0.08, 0.4), flip=False).box.double()
    top, left, height, width = box.unbind(1)
    assert torch.stack([top, left]).min() >= 0
    assert (top + height).max() <= size[0]
    assert (left + width).max() <= size[1]
    share, ratio = height * width / (size[0] * size[1]), width / height
    assert 0.08 * 0.97 < share.min() < share.max() < 0.4 * 1.03
    assert 3 / 4 * 0.97 < ratio.min() < ratio.max() < 4 / 3 * 1.03


def test_crops_have_the_distribution_of_torchvision():
    from torchvision.transforms.v2 import RandomResizedCrop

    ours = draw_resized_crops(SeedTree(7).numpy(), 4000, (60, 80), (0.08, 1.0), flip=False).box.double().numpy()
    crop, image = RandomResizedCrop(8, scale=(0.08, 1.0)), torch.empty(3, 60, 80)
    with SeedTree(8).scoped():
        drawn = [crop.make_params([image]) for _ in range(2000)]
    theirs = np.array([[item[name] for name in ("top", "left", "height", "width")] for item in drawn], dtype=float)
    for column in range(4):
        spread = theirs[:, column].std()
        assert abs(ours[:, column].mean() - theirs[:, column].mean()) < 5 * spread * (1 / 4000 + 1 / 2000) ** 0.5
        quantiles = np.linspace(0.05, 0.95, 10)
        gap = np.quantile(ours[:, column], quantiles) - np.quantile(theirs[:, column], quantiles)
        assert np.abs(gap).max() < 0.15 * spread + 1


@each_of(
    ("size", "box"), [((10, 400), [0, 193, 10, 13]), ((400, 10), [193, 0, 13, 10]), ((30, 3000), [0, 1480, 30, 40])]
)
def test_crop_of_an_extreme_shape_is_central(size, box):
    assert draw_resized_crops(SeedTree(0).numpy(), 5, size, (0.9, 1.0), flip=False).box.tolist() == [box] * 5


def test_crops_stay_inside_sources_of_unequal_size():
    heights, widths = np.array([8, 50, 20, 9]).repeat(200), np.array([60, 10, 20, 9]).repeat(200)
    box = draw_resized_crops(SeedTree(9).numpy(), 800, (heights, widths), (0.08, 1), flip=False).box.numpy()
    assert box.min() >= 0
    assert box[:, 2:].min() >= 1
    assert (box[:, 0] + box[:, 2] <= heights).all()
    assert (box[:, 1] + box[:, 3] <= widths).all()


def test_flips_and_rolls_are_uniform_and_optional():
    views = draw_resized_crops(SeedTree(10).numpy(), 4000, (16, 16), (0.1, 1), flip=True, roll_px=3)
    assert views.flip.float().mean().item() == pytest.approx(0.5, abs=0.04)
    for axis in range(2):
        shares = torch.bincount(views.roll[:, axis]) / 4000
        torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.04, rtol=0)
    plain = draw_resized_crops(SeedTree(10).numpy(), 100, (16, 16), (0.1, 1), flip=False)
    assert not plain.flip.any()
    assert not plain.roll.any()


@each_of("size", [(9, 9), (8, 12)])
@each_of("way", WAYS)
def test_shifts_equal_padding_and_cutting(size, way):
    images, pad = uniform(40, 3, *size), 4
    views = draw_shifts(SeedTree(11).numpy(), 40, size, pad, flip=True)
    shown = way(images, views, 16)
    padded = F.pad(images, (pad,) * 4, mode="replicate")
    for i, (top, left, height, width) in enumerate(views.box.tolist()):
        cut = padded[i : i + 1, :, pad + top : pad + top + height, pad + left : pad + left + width]
        expected = F.interpolate(cut, size=(16, 16), mode="bilinear", align_corners=False)[0]
        expected = expected.flip(-1) if views.flip[i] else expected
        torch.testing.assert_close(shown[i], expected, atol=1e-5, rtol=0)


def test_mix_equals_the_slow_loop():
    images, generator = uniform(6, 3, 10, 10), SeedTree(13).numpy()
    before = images.clone()
    for trial in range(20):
        partner, box = torch.from_numpy(generator.permutation(6)), draw_mix_box(SeedTree(trial).numpy(), 10, 1.0)
        expected = images.clone()
        for i in range(6):
            for y in range(box[0], box[2]):
                for x in range(box[1], box[3]):
                    expected[i, :, y, x] = images[partner[i], :, y, x]
        assert torch.equal(apply_mix(images, partner, box), expected)
    assert torch.equal(images, before)


@each_of("box", [(0, 0, 0, 0), (3, 4, 3, 8), (5, 0, 5, 5)])
def test_empty_box_mixes_nothing(box):
    images = uniform(2, 3, 8, 8)
    assert apply_mix(images, torch.tensor([1, 0]), box, 1.0) is images


def test_whole_box_swaps_the_images():
    images = uniform(2, 3, 8, 8)
    assert torch.equal(apply_mix(images, torch.tensor([1, 0]), (0, 0, 8, 8)), images.flip(0))


@each_of("size", [8, 33, 224])
def test_mix_boxes_stay_inside(size):
    for seed in range(300):
        top, left, bottom, right = draw_mix_box(SeedTree(seed).numpy(), size, 1.0)
        assert 0 <= top <= bottom <= size
        assert 0 <= left <= right <= size


def unclipped_share(box, size):
    """Squared side of a box, over the area; None when the border has cut both of its sides."""
    top, left, bottom, right = box
    sides = [high - low for low, high in ((top, bottom), (left, right)) if low > 0 and high < size]
    return (sides[0] / size) ** 2 if sides else None


def test_mix_box_of_a_narrow_beta_takes_half():
    boxes = [draw_mix_box(SeedTree(seed).numpy(), 1000, 1e9) for seed in range(300)]
    shares = [share for share in (unclipped_share(box, 1000) for box in boxes) if share is not None]
    assert len(shares) > 100
    np.testing.assert_allclose(shares, 0.5, atol=0.005)


def test_mix_box_is_uniform_in_area_at_alpha_one():
    # Boxes below a quarter of the area with a centre this far from the border are never clipped, so nothing is hidden.
    rng = SeedTree(14).numpy()
    box = np.array([draw_mix_box(rng, 1000, 1.0) for _ in range(20_000)])
    sides, centres = box[:, 2:] - box[:, :2], (box[:, 2:] + box[:, :2]) / 2
    free = (np.abs(centres - 500) < 245).all(axis=1) & (sides[:, 0] == sides[:, 1]) & (sides[:, 0] < 490)
    free &= (box[:, :2] > 0).all(axis=1) & (box[:, 2:] < 1000).all(axis=1)
    share = (sides[free, 0] / 490) ** 2
    assert len(share) == pytest.approx(20_000 * 0.49**2 * 0.49**2, rel=0.15)
    assert np.mean(share) == pytest.approx(0.5, abs=0.04)
    assert np.mean(share < 0.25) == pytest.approx(0.25, abs=0.05)
