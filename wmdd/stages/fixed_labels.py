"""One soft label for each image: the teacher's logits of the whole image, mixed as the images of a view are.

Views are drawn for each student, as with class names, and no label is stored for them. With y_i the label of image i,
a view of image i that is mixed with image j by the share s (of MixUp, or of the area that CutMix leaves) has the target

    q = s softmax(y_i / T) + (1 - s) softmax(y_j / T),        for the loss "mse"  s y_i + (1 - s) y_j.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from wmdd.config.students import EvaluateConfig
from wmdd.data.augment import augmentation
from wmdd.distributed import ALONE, Ranks
from wmdd.method.artifacts import ImageSet
from wmdd.method.batch_sizes import batch_sizes
from wmdd.method.label_batches import LabelBatch, draw_epoch, replay, replayable, replayed_together
from wmdd.models.teacher import Teacher
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit
from wmdd.stages.supervision import SoftLessons, learned_by, own_part
from wmdd.training.accuracy import images_per_pass

if TYPE_CHECKING:
    from wmdd.stages.plans.evaluate import Params


class FixedLessons(SoftLessons):
    """One soft label for each image, of the teacher or of an ensemble, and views that are drawn for each student."""

    def __init__(
        self,
        section: EvaluateConfig,
        unit: Unit[Params],
        images: ImageSet,
        seeds: SeedTree,
        runtime: Runtime,
        ranks: Ranks = ALONE,
    ) -> None:
        assert unit.params.views is not None
        self._section, self._runtime, self._ranks = section, runtime, ranks
        self._views, self._geometry = unit.params.views, unit.params.geometry
        ensemble = [unit.load("teacher"), *(unit.load("others") if self._views.teachers else ())]
        self._begin(0)
        self.learned = learned_by(section, runtime)
        self._targets = label_images(ensemble, images.images, runtime)
        self._pixels = replayable(images.images, "none", self._geometry.pixels, runtime)
        self._weights = (images.mass / images.mass.mean()).to(runtime.device)
        self._names = images.labels.to(runtime.device)
        self._seeds = seeds.child("views")
        self._change = augmentation(section.augment, self._geometry.pixels)
        self.epochs, self.sizes = self._views.epochs, batch_sizes(self._views, len(images))
        self.steps = len(self.sizes)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield views, the logits of their targets, the images' weights and their classes."""
        self._begin(epoch)
        size = self._geometry.image_size
        drawn = draw_epoch(self._views, epoch, len(self._names), size, self._seeds)
        for batches in replayed_together(drawn, size):
            shown = replay(batches, self._pixels, self._geometry.pixels, self._runtime)
            # Every process changes whole batches, by the same draws.
            for batch, views in zip(batches, map(self._change, shown), strict=True):
                rows, partner = self._runtime.send(batch.images), self._runtime.send(batch.partner)
                labels = self._mixed(self._targets[rows], partner, share_of(batch, size))
                whole = (views, labels, self._weights[rows], self._names[rows])
                yield own_part(whole, self._section, self._runtime, self._ranks)

    def _mixed(self, logits: Tensor, partner: Tensor, share: float) -> Tensor:
        """Return logits of the mixtures of (n, classes) labels with their partners'."""
        if share == 1:
            return logits
        if self._section.loss == "mse":
            return share * logits + (1 - share) * logits[partner]
        log_own = F.log_softmax(logits / self._temperature, dim=1)
        mixed = torch.logaddexp(log_own + _log(share), log_own[partner] + _log(1 - share))
        return self._temperature * mixed


def _log(share: float) -> float:
    return float(torch.tensor(share).log())


def share_of(batch: LabelBatch, size: int) -> float:
    """Return the share that each image has in its view of `size` px, the rest being its partner's."""
    top, left, bottom, right = batch.box
    return batch.share * (1 - max(0, bottom - top) * max(0, right - left) / size**2)


@torch.no_grad()
def label_images(ensemble: Iterable[Teacher], images: Tensor, runtime: Runtime) -> Tensor:
    """Return the mean logits of networks on whole (n, 3, h, w) uint8 images: (n, classes) float32 on the device.

    They are rounded to 16 bits, as stored labels are.
    """
    by_network = []
    for teacher in ensemble:
        network = runtime.place(teacher.network).eval()
        together = images_per_pass(network, teacher.image_size, runtime)
        logits = []
        for part in images.split(together):
            with runtime.autocast():
                logits.append(network(runtime.images(teacher.pixels.normalize(runtime.send(part)))).float())
        by_network.append(torch.cat(logits))
    return torch.stack(by_network).mean(dim=0).half().float()
