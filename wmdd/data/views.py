"""Random views as linear maps: the numbers of a view are drawn once, and give the same view on every device.

A view crops, resizes bilinearly, flips and rolls. Each of these acts on rows and on columns separately, so the view of
an image X (h, w) is ``A_y X A_x^T`` with two small matrices (target, h) and (target, w). Views are therefore
differentiable, deterministic on GPUs, too (no scatter in the backward pass), and need no Python loop over images.

CutMix (Yun et al., 2019) and MixUp (Zhang et al., 2018) mix finished views, also from numbers drawn before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wmdd.runtime import Runtime


@dataclass(frozen=True)
class Views:
    """Views of n images (or n groups of images)."""

    box: Tensor  # (n, 4) int32, top, left, height, width of the crop in source px; may reach outside the image
    flip: Tensor  # (n,) bool, mirror left to right after the crop
    roll: Tensor  # (n, 2) int32, cyclic shift down and right after the flip, in target px

    def __getitem__(self, rows: slice | int | Tensor) -> Views:
        return Views(self.box[rows], self.flip[rows], self.roll[rows])

    def __len__(self) -> int:
        return len(self.box)

    def to(self, runtime: Runtime) -> Views:
        """Copy the numbers to the device, so that no later step waits for them."""
        return Views(runtime.send(self.box), runtime.send(self.flip), runtime.send(self.roll))

    @staticmethod
    def cat(parts: list[Views]) -> Views:
        """Return views one after another along their first axis."""
        boxes, flips, rolls = zip(*((part.box, part.flip, part.roll) for part in parts), strict=True)
        return Views(torch.cat(boxes), torch.cat(flips), torch.cat(rolls))

    @staticmethod
    def stack(parts: list[Views]) -> Views:
        """Return views stacked along a new second axis: (n, parts, ...)."""
        boxes, flips, rolls = zip(*((part.box, part.flip, part.roll) for part in parts), strict=True)
        return Views(torch.stack(boxes, 1), torch.stack(flips, 1), torch.stack(rolls, 1))


Size = tuple[int, int] | tuple[np.ndarray, np.ndarray]


def draw_resized_crops(
    rng: np.random.Generator,
    n: int,
    size: Size,
    scale: tuple[float | np.ndarray, float],
    *,
    flip: bool,
    roll_px: int = 0,
) -> Views:
    """Draw n views with the distribution of torchvision's RandomResizedCrop (ratio 3/4 to 4/3), flips and rolls.

    Args:
        size: height and width of the source, px; numbers for all, or (n,) arrays.
        scale: smallest and largest fraction of the source's area; the smallest may be (n, 1), one for each view.
        flip: mirror each view with a chance of one half.
        roll_px: largest cyclic shift down and right, px.
    """
    height, width = (np.broadcast_to(np.asarray(axis), (n,)) for axis in size)
    area = (height * width)[:, None] * rng.uniform(scale[0], scale[1], (n, 10))
    ratio = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), (n, 10)))
    w, h = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    rows, first, any_fits = np.arange(n), fits.argmax(axis=1), fits.any(axis=1)
    # If none of ten fits, take the largest central crop with an allowed ratio, as torchvision does.
    widest, tallest = np.minimum(width, height * 4 // 3), np.minimum(height, width * 4 // 3)
    h, w = np.where(any_fits, h[rows, first], tallest), np.where(any_fits, w[rows, first], widest)
    top = np.where(any_fits, np.floor(rng.random(n) * (height - h + 1)), (height - h) // 2)
    left = np.where(any_fits, np.floor(rng.random(n) * (width - w + 1)), (width - w) // 2)
    flips = rng.random(n) < 0.5 if flip else np.zeros(n, dtype=bool)
    return _views(np.stack([top, left, h, w], axis=1), flips, rng.integers(0, roll_px + 1, (n, 2)))


def _views(box: np.ndarray, flip: np.ndarray, roll: np.ndarray) -> Views:
    boxes, rolls = (torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32)) for values in (box, roll))
    return Views(boxes, torch.from_numpy(flip), rolls)


def draw_shifts(rng: np.random.Generator, n: int, size: Size, pad_px: int, *, flip: bool) -> Views:
    """Draw n views of the whole image moved by up to `pad_px` in each direction, its edge pixels repeated."""
    shift = rng.integers(-pad_px, pad_px + 1, (n, 2))
    sizes = np.stack([np.broadcast_to(np.asarray(axis), (n,)) for axis in size], axis=1)
    flips = rng.random(n) < 0.5 if flip else np.zeros(n, dtype=bool)
    return _views(np.concatenate([shift, sizes], axis=1), flips, np.zeros((n, 2)))


def view_matrices(views: Views, source: tuple[int, int], target: int) -> tuple[Tensor, Tensor]:
    """Return the row maps (n, target, height) and column maps (n, target, width) of views, float32.

    Args:
        source: height and width of the images, px.
        target: height and width of the views, px.
    """
    box, flip, roll = views.box, views.flip, views.roll
    rows = _axis_matrix(box[:, 0], box[:, 2], roll[:, 0], torch.zeros_like(flip), source[0], target)
    columns = _axis_matrix(box[:, 1], box[:, 3], roll[:, 1], flip, source[1], target)
    return rows, columns


def _axis_matrix(start: Tensor, length: Tensor, roll: Tensor, flip: Tensor, source: int, target: int) -> Tensor:
    at = _positions(start, length, roll, flip, source, target)
    pixel = torch.arange(source, device=start.device)
    return (1 - (at[:, :, None] - pixel).abs()).clamp(min=0)


def _positions(start: Tensor, length: Tensor, roll: Tensor, flip: Tensor, source: int, target: int) -> Tensor:
    """Return where along an axis of the source each pixel of the views is read, (n, target) float32, px."""
    out = torch.arange(target, device=start.device)
    index = (out[None, :] - roll[:, None]) % target
    index = torch.where(flip[:, None], target - 1 - index, index)
    # Bilinear resizing with half-pixel centres, clamped to the crop (and the image) as if it were cut out first.
    at = start[:, None] + (index + 0.5) * (length[:, None] / target) - 0.5
    low = start.clamp(min=0)[:, None].float()
    high = ((start + length).clamp(max=source) - 1)[:, None].float()
    return at.clamp(min=low, max=high)


def apply_views(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return views of images.

    Args:
        images: (n, ..., h, w) float; the leading axis is that of the matrices.
        rows, columns: (n, target, h) and (n, target, w).

    Returns:
        (n, ..., target, target).
    """
    extra = images.ndim - 3
    rows = rows.view(rows.shape[0], *([1] * extra), *rows.shape[1:])
    columns = columns.view(columns.shape[0], *([1] * extra), *columns.shape[1:])
    with torch.autocast(images.device.type, enabled=False):
        return rows @ images @ columns.mT


def sample_views(images: Tensor, views: Views, target: int) -> Tensor:
    """Return the views that `apply_views` returns, within rounding, by four reads for each pixel of a view.

    Several times as fast, but only for images without gradients: on a GPU, these would be summed in no fixed order.

    Args:
        images: (n, channels, h, w) float32.
        views: n views, on the same device.
        target: height and width of the views, px.

    Returns:
        (n, channels, target, target).
    """
    (height, width), box, roll = images.shape[-2:], views.box, views.roll
    rows = _positions(box[:, 0], box[:, 2], roll[:, 0], torch.zeros_like(views.flip), height, target)
    columns = _positions(box[:, 1], box[:, 3], roll[:, 1], views.flip, width, target)
    # From -1 at the outer edge of the first pixel to 1 at that of the last.
    down, across = (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), dim=-1)
    with torch.autocast(images.device.type, enabled=False):
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def draw_mix_box(rng: np.random.Generator, size: int, alpha: float) -> tuple[int, int, int, int]:
    """Draw CutMix's box: top, left, bottom, right in an image of `size` px.

    Its fraction of the area is 1 - Beta(alpha, alpha), before the image's border cuts it.
    """
    half = int(math.sqrt(1 - rng.beta(alpha, alpha)) * size) // 2
    cy, cx = rng.integers(0, size, 2)
    top, left, bottom, right = np.clip([cy - half, cx - half, cy + half, cx + half], 0, size)
    return int(top), int(left), int(bottom), int(right)


def apply_mix(images: Tensor, partner: Tensor, box: tuple[int, int, int, int], share: float = 1.0) -> Tensor:
    """Return (n, 3, h, w) images mixed each with its partner.

    Args:
        partner: (n,) int64, rows of `images`.
        box: of the partner, pasted over the image (CutMix); empty for none.
        share: of the image in its sum with the partner (MixUp); 1 for CutMix or none.
    """
    if share < 1:
        return images * share + images[partner] * (1 - share)
    top, left, bottom, right = box
    if bottom <= top or right <= left:
        return images
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return mixed
