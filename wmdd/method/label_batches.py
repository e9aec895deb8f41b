"""Label batches: the views and mixtures of a batch of a student's training, drawn once and replayed exactly.

For each epoch and batch of a student's training, images i_1, ..., i_n of the set are drawn without replacement, a view
V_j (crop and flip) for each, and a permutation p of the batch. The student then sees, and the teacher has seen,

    x_j = M(V_j(i_j), V_p(j)(i_p(j))),        labels z_j = teacher(x_j),

where M pastes one box of the partner (CutMix; its area is 1 - Beta(alpha, alpha)), or adds images by one share (MixUp).

Source: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition" (ECCV 2022). The method's
released code draws the images of a batch again from a seed, which needs a changed PyTorch. Here they are stored, too.

Cost: a replay reads four values of an image for each pixel of its view.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wmdd.config.base import Augment
from wmdd.config.students import RelabelConfig
from wmdd.data.augment import augmented
from wmdd.data.views import Views, apply_mix, draw_mix_box, draw_resized_crops, sample_views
from wmdd.errors import ArtifactError
from wmdd.method.batch_sizes import batch_sizes
from wmdd.normalization import Normalization
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree

REPLAYED_VALUES = 2**20  # of the views that are computed together: 4 MiB, which fits into a CPU's cache
NORMALIZED_VALUES = 2**24  # of a set that is normalised once, not at each replay: 64 MiB


@dataclass(frozen=True, eq=False)
class LabelBatch:
    """One stored batch of a student's training.

    Args:
        epoch, batch: counted from 0; batch within the epoch.
        images: (n,) int64, rows of the image set.
        views: n crops and flips.
        partner: (n,) int64, rows of this batch that each image is mixed with.
        box: top, left, bottom, right of CutMix, px; empty for none.
        share: of each image in MixUp's sum, in [0, 1]; 1 for none.
        logits: (n, classes) float16, of the teacher on the mixed views; empty before relabelling.
        augment: torchvision's change of the images before their views, drawn from `augment_seed`.
        brightness: (n,) float32 mean of each changed image's pixels, in [0, 255]; empty if none was changed.
    """

    epoch: int
    batch: int
    images: Tensor
    views: Views
    partner: Tensor
    box: tuple[int, int, int, int]
    logits: Tensor
    share: float = 1.0
    augment: Augment = "none"
    augment_seed: int = 0
    brightness: Tensor = field(default_factory=lambda: torch.zeros(0))

    def changed(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return this batch's images among (set, 3, h, w) uint8 ones, changed by `augment`."""
        return augmented(runtime.pick(pixels, self.images), self.augment, self.augment_seed)

    def replay(self, pixels: Tensor, normalization: Normalization, runtime: Runtime) -> Tensor:
        """Return the mixed views of (set, 3, h, w) images, (n, 3, h, w) normalised float32 on the device.

        Args:
            pixels: uint8, or what `replayable` made of them, which `normalization` leaves as they are.

        Raises:
            ArtifactError: if torchvision does not change the images as it did for the teacher.
        """
        return next(replay([self], pixels, normalization, runtime))


def replayable(pixels: Tensor, augment: str, normalization: Normalization, runtime: Runtime) -> Tensor:
    """Return (set, 3, h, w) uint8 images as many replays take them: on the device, and normalised, if they are few.

    If torchvision changes them first, which it does on the host, they stay as they are.
    """
    if augment != "none":
        return pixels
    kept = runtime.keep(pixels)
    return normalization.normalize(kept) if kept.numel() <= NORMALIZED_VALUES else kept


def replay(
    batches: Sequence[LabelBatch], pixels: Tensor, normalization: Normalization, runtime: Runtime
) -> Iterator[Tensor]:
    """Yield what `LabelBatch.replay` returns for each batch; the views of all are computed together.

    Args:
        pixels: (set, 3, h, w), as for `LabelBatch.replay`.
    """
    if batches[0].augment == "none":
        chosen = runtime.pick(pixels, torch.cat([batch.images for batch in batches]))
    else:
        chosen = torch.cat([_as_labelled(batch, pixels, runtime) for batch in batches])
    chosen = runtime.send(chosen)
    if not chosen.is_floating_point():
        chosen = normalization.normalize(chosen)
    sizes, of_all = [len(batch.images) for batch in batches], Views.cat([batch.views for batch in batches])
    views = runtime.images(sample_views(chosen, of_all.to(runtime), chosen.shape[-1])).split(sizes)
    partners = runtime.send(torch.cat([batch.partner for batch in batches])).split(sizes)
    for batch, images, partner in zip(batches, views, partners, strict=True):
        yield apply_mix(images, partner, batch.box, batch.share)


def _as_labelled(batch: LabelBatch, pixels: Tensor, runtime: Runtime) -> Tensor:
    changed = batch.changed(pixels, runtime)
    if len(batch.brightness) and (mean_pixels(changed) - batch.brightness).abs().max() > 1:
        raise ArtifactError(
            f"{batch.augment} of this torchvision differs from that of the labels of epoch {batch.epoch}; install "
            "the version that made them, or run relabel again"
        )
    return changed


def replayed_together(batches: Iterable[LabelBatch], size: int) -> Iterator[list[LabelBatch]]:
    """Yield consecutive batches of an epoch, for `replay`: as many as have `REPLAYED_VALUES`, but at least one.

    An epoch is cut in the same way whichever epoch comes first, so a resumed training sees the same bits.

    Args:
        size: height and width of the images, px.
    """
    for _, of_epoch in itertools.groupby(batches, lambda batch: batch.epoch):
        yield from together(of_epoch, size)


def together(batches: Iterable[LabelBatch], size: int, images: int = 0) -> Iterator[list[LabelBatch]]:
    """Yield consecutive batches as `replayed_together` does, but also of several epochs.

    Args:
        images: most of a group, in place of what `REPLAYED_VALUES` allows; 0 for that.
    """
    most = 3 * size**2 * images or REPLAYED_VALUES
    group: list[LabelBatch] = []
    values = 0
    for batch in batches:
        more = 3 * size**2 * len(batch.images)
        if group and values + more > most:
            yield group
            group, values = [], 0
        group.append(batch)
        values += more
    if group:
        yield group


def draw_epoch(section: RelabelConfig, epoch: int, num_images: int, size: int, seeds: SeedTree) -> Iterator[LabelBatch]:
    """Draw the batches of an epoch, without logits, of `num_images` images of `size` px."""
    rng = seeds.child("epoch", epoch).numpy()
    ends = np.cumsum(batch_sizes(section, num_images))
    for batch, images in enumerate(np.split(rng.permutation(num_images), ends[:-1])):
        count = len(images)
        views = draw_resized_crops(rng, count, (size, size), section.crop_scale, flip=section.flip)
        partner = rng.permutation(count)
        box = draw_mix_box(rng, size, section.mix_alpha) if section.mix == "cutmix" else (0, 0, 0, 0)
        share = float(np.float32(rng.beta(section.mix_alpha, section.mix_alpha))) if section.mix == "mixup" else 1.0
        empty = torch.zeros(count, 0, dtype=torch.float16)
        seed = 0 if section.augment == "none" else int(rng.integers(2**63))
        rows = torch.from_numpy(images), views, torch.from_numpy(partner)
        yield LabelBatch(epoch, batch, *rows, box, empty, share, section.augment, seed)


def mean_pixels(images: Tensor) -> Tensor:
    """Return the (n,) float32 brightness of (n, 3, h, w) uint8 images, which rounding hardly changes."""
    return images.float().mean(dim=(1, 2, 3)).cpu()
