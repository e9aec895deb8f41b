"""Tiles: a stored image that holds several smaller images, which are enlarged to full size before a network sees them.

A stored image of h x h px holds t x t tiles of s = h / t px, row by row. With E the (h, s) matrix of bilinear
interpolation with half-pixel centres, clamped at the edges, tile X becomes the image E X E^T. At an equal number of
stored pixels a class has t^2 times as many images, of a t-th of the resolution.

Source: the partition of condensed images of Kim et al., "Dataset Condensation via Efficient Synthetic-Data
Parameterization" (ICML 2022). Here the class's barycenter has an atom for each tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wmdd.data.views import Views, apply_views, view_matrices

PER_PASS = 2**12  # images that are enlarged at a time, in float32


def split(images: Tensor, tiles: int) -> Tensor:
    """Return the tiles (n * tiles^2, 3, s, s) of (n, 3, h, h) images, those of an image one after another."""
    n, channels, size, _ = images.shape
    side = size // tiles
    parts = images.reshape(n, channels, tiles, side, tiles, side)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, side, side)


def join(parts: Tensor, tiles: int) -> Tensor:
    """Return the images of which `split` returns these tiles."""
    count, channels, side, _ = parts.shape
    grid = parts.reshape(count // tiles**2, tiles, tiles, channels, side, side)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, tiles * side, tiles * side)


def enlargement(size: int, tiles: int) -> Tensor:
    """Return the (size, size / tiles) float32 matrix E."""
    side = size // tiles
    whole = Views(torch.tensor([[0, 0, side, side]]), torch.zeros(1, dtype=torch.bool), torch.zeros(1, 2))
    rows, _ = view_matrices(whole, (side, side), size)
    return rows[0]


def decode(images: Tensor, tiles: int) -> Tensor:
    """Return the enlarged tiles (n * tiles^2, 3, h, h) uint8 of stored images (n, 3, h, h) uint8."""
    if tiles == 1:
        return images
    matrix = enlargement(images.shape[-1], tiles)[None]
    parts = split(images, tiles).split(PER_PASS)
    enlarged = [apply_views(part.float()[None], matrix, matrix)[0] for part in parts]
    return torch.cat([part.round().clamp(0, 255).byte() for part in enlarged])


def encode(images: Tensor, tiles: int) -> Tensor:
    """Return stored images (n, 3, h, h) uint8 of (n * tiles^2, 3, h, h) ones, whose pixels are averaged."""
    if tiles == 1:
        return images
    smaller = torch.nn.functional.avg_pool2d(images.float(), tiles)
    return join(smaller.round().clamp(0, 255).byte(), tiles)
