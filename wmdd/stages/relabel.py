"""Stage "relabel": the logits of the teacher, or the mean of several, on stored views of an image set."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from wmdd.config.students import RelabelConfig
from wmdd.method.artifacts import ImageSet
from wmdd.method.batch_sizes import batch_sizes
from wmdd.method.label_batches import LabelBatch, draw_epoch, mean_pixels, replay, replayable, together
from wmdd.method.soft_labels import LabelBlock
from wmdd.models.folding import folded
from wmdd.models.registry import normalized_by_batch
from wmdd.models.teacher import Teacher
from wmdd.normalization import Normalization
from wmdd.outputs import Output, Progress
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages.base import Unit, Yielded
from wmdd.stages.plans.relabel import Params
from wmdd.training.accuracy import images_per_pass
from wmdd.training.trainer import split_batch

DRAWN_TOGETHER = 64  # batches; a draw takes three times as long between the passes of a network


def relabel(section: RelabelConfig, units: list[Unit[Params]], seeds: SeedTree, runtime: Runtime) -> Iterator[Yielded]:
    """Label blocks of epochs: inputs ``teacher``, ``classes`` and, if an ensemble labels, the ``others``."""
    whole = section
    for unit in units:
        section = _of_unit(whole, unit.params)
        teacher: Teacher = unit.load("teacher")
        ensemble = [teacher, *(unit.load("others") if section.teachers else ())]
        images = replayable(ImageSet.of(unit.load("classes")).images, section.augment, teacher.pixels, runtime)
        per_epoch = len(batch_sizes(section, len(images)))
        per_pass = min(_per_pass(section, item, runtime) for item in ensemble)
        # Passes of all blocks, so that every block is labelled by the same code.
        steps = section.epochs * (-(-len(images) // per_pass) if per_pass else per_epoch)
        networks = [runtime.network(_as_it_labels(section, item, runtime), steps, _parts(section)) for item in ensemble]
        labeller = _Labeller(section, networks, images, teacher.pixels, runtime, per_pass > 0)
        drawn = _drawn(section, unit.params, len(images), teacher.image_size, seeds)
        labelled = yield from labeller.label(
            together(drawn, teacher.image_size, per_pass), per_epoch, unit.params.epochs
        )
        meta = {
            "schema": 1,
            "first_epoch": unit.params.first_epoch,
            "epochs": unit.params.epochs,
            "batches": per_epoch,
            "classes": teacher.num_classes,
            "class_names": list(teacher.class_names),
        }
        yield Output(unit.name, LabelBlock.write(labelled, meta))


def _of_unit(section: RelabelConfig, params: Params) -> RelabelConfig:
    if not params.batch_size:
        return section
    micro_batch = min(section.micro_batch, params.batch_size)
    return section.model_copy(update={"batch_size": params.batch_size, "micro_batch": micro_batch})


def _per_pass(section: RelabelConfig, teacher: Teacher, runtime: Runtime) -> int:
    """Return how many images of several batches pass a network together on this GPU; 0 if each batch passes alone."""
    if section.bn_mode != "running":
        return 0
    count = images_per_pass(runtime.place(teacher.network), teacher.image_size, runtime, section.batch_size)
    return count if count > section.batch_size else 0


def _parts(section: RelabelConfig) -> int:
    """Return into how many parts a batch is cut, as the student's is: both normalise the same images together."""
    return -(-section.batch_size // section.micro_batch) if section.micro_batch else 1


def _drawn(section: RelabelConfig, params: Params, num_images: int, size: int, seeds: SeedTree) -> Iterator[LabelBatch]:
    """Draw the batches of a block, without logits, `DRAWN_TOGETHER` at a time."""
    label_seeds = seeds.child("relabel", params.images)
    epochs = range(params.first_epoch, params.first_epoch + params.epochs)
    batches = (batch for epoch in epochs for batch in draw_epoch(section, epoch, num_images, size, label_seeds))
    while ahead := list(itertools.islice(batches, DRAWN_TOGETHER)):
        yield from ahead


@dataclasses.dataclass(frozen=True, eq=False)
class _Labeller:
    """Networks that label views of images; their mean logits are the labels.

    Args:
        images: as `replayable` returns them.
        joined: whether each group of batches is one pass of the networks.
    """

    section: RelabelConfig
    networks: list[Callable[..., Any]]
    images: torch.Tensor
    pixels: Normalization
    runtime: Runtime
    joined: bool = False

    def label(
        self, groups: Iterable[list[LabelBatch]], per_epoch: int, epochs: int
    ) -> Generator[Progress, None, list[LabelBatch]]:
        """Label the batches of epochs, in groups whose views are computed together; yield progress, return them."""
        batches: list[LabelBatch] = []
        logits: list[torch.Tensor] = []
        waiting: list[torch.Tensor] = []
        for group in groups:
            waiting.append(self._logits(group))
            batches += group if self.section.augment == "none" else map(self._with_brightness, group)
            if len(batches) // per_epoch > len(logits) // per_epoch:
                # One wait for the device in an epoch, where a copy of each batch would be one wait each.
                sizes = [len(batch.images) for batch in batches[len(logits) :]]
                logits += torch.cat(waiting).cpu().split(sizes)
                waiting.clear()
                yield Progress(len(batches) // per_epoch, epochs)
        return [dataclasses.replace(batch, logits=rows) for batch, rows in zip(batches, logits, strict=True)]

    @torch.no_grad()
    def _logits(self, batches: list[LabelBatch]) -> torch.Tensor:
        """Return the (rows, classes) float16 logits of batches, one after another, on the device."""
        logits = []
        replayed: Iterable[torch.Tensor] = replay(batches, self.images, self.pixels, self.runtime)
        for views in [torch.cat(list(replayed))] if self.joined else replayed:
            parts = split_batch((views,), _parts(self.section))
            with self.runtime.autocast():
                voices = [torch.cat([network(part) for (part,) in parts]).float() for network in self.networks]
            logits.append(voices[0] if len(voices) == 1 else torch.stack(voices).mean(dim=0))
        return torch.cat(logits).half()

    def _with_brightness(self, batch: LabelBatch) -> LabelBatch:
        return dataclasses.replace(batch, brightness=mean_pixels(batch.changed(self.images, self.runtime)))


def _as_it_labels(section: RelabelConfig, teacher: Teacher, runtime: Runtime) -> nn.Module:
    """Return a copy of a network that normalises by running averages, or by batch, at the least cost."""
    network = runtime.place(teacher.network)
    if section.bn_mode == "running":
        return runtime.round_weights(folded(network, teacher.image_size))
    return runtime.round_weights(normalized_by_batch(network))
