"""What each step of recovery draws: a view of each class, and what its options add to it.

Every number of a class comes from its own seeds and is drawn before the first step, so neither the other classes nor
the device can change it.

With `mix`, image j shows image p(j) of its class in a box, p a random permutation of the images that are optimised
together, and the box's share of the area 1 - Beta(1, 1), as `label_batches` mixes with `relabel.mix_alpha` 1. p(j) may
be j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wmdd.config.recovery import RecoverConfig
from wmdd.data.views import Views, draw_mix_box, draw_resized_crops
from wmdd.method.artifacts import ClassStatistics
from wmdd.method.transport import draw_samples
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree

ALPHA = 1.0


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of all steps of several classes, on the device.

    Args:
        views: (steps, classes).
        sample: (steps, classes, m) rows of real features, which transport needs.
        partner, mix_box: (steps, classes, k) images of the same class that each is mixed with, and (steps, classes, 4)
            top, left, bottom, right of the box that shows the partner, px.
    """

    views: Views
    sample: Tensor | None = None
    partner: Tensor | None = None
    mix_box: Tensor | None = None

    def at(self, step: int) -> dict[str, Tensor]:
        """Return those of a step, by the names of the objective's arguments."""
        views = self.views
        always = {"box": views.box, "flip": views.flip, "roll": views.roll}
        optional = {"sample": self.sample, "partner": self.partner, "mix_box": self.mix_box}
        return {name: values[step] for name, values in (always | optional).items() if values is not None}


def draw(
    section: RecoverConfig,
    statistics: Sequence[ClassStatistics],
    seeds: Sequence[SeedTree],
    count: int,
    size: int,
    runtime: Runtime,
) -> Draws:
    """Draw what all steps need.

    Args:
        seeds: of each class.
        count: images of each class as networks see them (tiles are such).
        size: height and width of the views, px.
    """
    views = _draw_views(section, seeds, size).to(runtime)
    sample = partner = mix_box = None
    if section.feature_loss == "transport":
        of_samples = [item.child("transport") for item in seeds]
        sample = runtime.send(draw_samples(statistics, of_samples, section.iterations, section.transport_sample))
    if section.mix == "cutmix":
        partner, mix_box = map(runtime.send, _draw_mixtures(section.iterations, seeds, count, size))
    return Draws(views, sample, partner, mix_box)


def _draw_views(section: RecoverConfig, seeds: Sequence[SeedTree], size: int) -> Views:
    n, scale = section.iterations, _scales(section)
    rngs = [item.child("views").numpy() for item in seeds]
    drawn = [draw_resized_crops(r, n, (size, size), scale, flip=section.flip, roll_px=section.roll_px) for r in rngs]
    return Views.stack(drawn)


def _scales(section: RecoverConfig) -> tuple[float | np.ndarray, float]:
    """Return the least and the largest area of each step's view; a curriculum lowers the least (Yin & Shen, 2023)."""
    low, high = section.crop_scale
    if section.curriculum == "none":
        return low, high
    part = np.minimum(np.arange(section.iterations) / max(1.0, section.curriculum_share * section.iterations), 1.0)
    shapes = {"step": 1.0 * (part < 1), "linear": 1 - part, "cosine": (1 + np.cos(np.pi * part)) / 2}
    return (low + (high - low) * shapes[section.curriculum])[:, None], high


def _draw_mixtures(steps: int, seeds: Sequence[SeedTree], count: int, size: int) -> tuple[Tensor, Tensor]:
    """Draw partners (steps, classes, count) int32, a permutation each, and boxes (steps, classes, 4) int32."""
    partner = np.zeros((steps, len(seeds), count), dtype=np.int32)
    box = np.zeros((steps, len(seeds), 4), dtype=np.int32)
    for position, item in enumerate(seeds):
        rng = item.child("mix").numpy()
        for step in range(steps):
            partner[step, position] = rng.permutation(count)
            box[step, position] = draw_mix_box(rng, size, ALPHA)
    return torch.from_numpy(partner), torch.from_numpy(box)


def mix(views: Tensor, partner: Tensor, box: Tensor) -> Tensor:
    """Return views of which each shows its partner in the box of its class (CutMix).

    Args:
        views: (classes, k, 3, h, w).
        partner: (classes, k) int32, places in the class.
        box: (classes, 4) int32 top, left, bottom, right, px.
    """
    classes, count, _, height, width = views.shape
    top, left, bottom, right = box.view(classes, 4, 1, 1).unbind(dim=1)
    down, across = torch.arange(height, device=box.device)[:, None], torch.arange(width, device=box.device)[None]
    inside = (down >= top) & (down < bottom) & (across >= left) & (across < right)
    first = torch.arange(classes, device=box.device)[:, None] * count
    partners = views.flatten(0, 1).index_select(0, (partner + first).flatten()).view_as(views)
    return torch.where(inside[:, None, None], partners, views)
