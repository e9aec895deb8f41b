"""Soft labels: stored label batches, each with its views, mixture and teacher logits, replayed exactly.

For each epoch and batch of a student's training, images i_1, ..., i_n of the set are drawn without replacement, a view
V_j (crop and flip) for each, and a permutation p of the batch. The student then sees, and the teacher has seen,

    x_j = M(V_j(i_j), V_p(j)(i_p(j))),        labels z_j = teacher(x_j),

where M pastes one box of the partner (CutMix; its area is 1 - Beta(alpha, alpha)), or adds images by one share (MixUp).

Source: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition" (ECCV 2022). The method's
released code draws the images of a batch again from a seed, which needs a changed PyTorch. Here they are stored, too: a
block of epochs is one Parquet file whose row groups are label batches, in the order of (epoch, batch). A sampler of
such pairs and ``DataLoader(batch_size=None)`` read it in any process and any order.

Cost: 2 bytes for each image, epoch and class; a replay is two small matrix products for each image.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wmdd.config.base import Augment
from wmdd.config.students import RelabelConfig
from wmdd.data.augment import augmented
from wmdd.data.views import Views, apply_mix, draw_mix_box, draw_resized_crops, sample_views
from wmdd.errors import ArtifactError
from wmdd.method.artifacts import ImageSet
from wmdd.normalization import Normalization
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.storage.artifact import Files
from wmdd.storage.parquet import column, open_table, read_rows


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
        """Return the mixed views of (set, 3, h, w) uint8 images, (n, 3, h, w) normalised float32 on the device.

        Raises:
            ArtifactError: if torchvision does not change the images as it did for the teacher.
        """
        changed = self.changed(pixels, runtime)
        if len(self.brightness) and (mean_pixels(changed) - self.brightness).abs().max() > 1:
            raise ArtifactError(
                f"{self.augment} of this torchvision differs from that of the labels of epoch {self.epoch}; install "
                "the version that made them, or run relabel again"
            )
        chosen = normalization.normalize(runtime.send(changed))
        views = sample_views(chosen, self.views.to(runtime), chosen.shape[-1])
        return runtime.images(apply_mix(views, runtime.send(self.partner), self.box, self.share))


def batch_sizes(section: RelabelConfig, num_images: int) -> list[int]:
    """Return the number of images of each batch of an epoch, in which every image occurs once.

    The last batch may be smaller. If it would be of one image, that joins the batch before, since batch-norm needs two.
    """
    whole, rest = divmod(num_images, section.batch_size)
    sizes = [section.batch_size] * whole + ([rest] if rest else [])
    if len(sizes) > 1 and rest == 1:
        sizes[-2:] = [section.batch_size + 1]
    return sizes


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


@dataclass(frozen=True, eq=False)
class LabelBlock:
    """Consecutive epochs of label batches, as one Parquet file.

    Args:
        data: the file.
        meta: first epoch, number of epochs, batches per epoch, classes and their names in the order of the logits, and
            the change of the images before their views, if any.
    """

    data: bytes
    meta: dict[str, Any]

    def to_files(self) -> dict[str, bytes]:
        """Return one Parquet file."""
        return {"labels.parquet": self.data}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read the file."""
        return cls.from_bytes(files.read("labels.parquet"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a file's bytes.

        Raises:
            ArtifactError: if they are not a block of labels.
        """
        try:
            metadata = pq.read_metadata(io.BytesIO(data)).metadata
            return cls(data, json.loads(metadata[b"wmdd"]))
        except (pa.ArrowInvalid, KeyError, TypeError) as exc:
            raise ArtifactError(f"not a block of soft labels: {exc}") from exc

    @classmethod
    def write(cls, batches: Iterable[LabelBatch], meta: dict[str, Any]) -> Self:
        """Return a block of label batches, each as one row group."""
        out = io.BytesIO()
        batches = list(batches)
        mixup, augment = any(batch.share < 1 for batch in batches), batches[0].augment
        meta = meta if augment == "none" else {**meta, "augment": augment}
        schema = _schema(meta["classes"], mixup, "augment" in meta).with_metadata({"wmdd": json.dumps(meta)})
        with pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_table(_table(batch, schema), row_group_size=len(batch.images))
        return cls(out.getvalue(), meta)

    def read(self, row_groups: Sequence[int]) -> list[LabelBatch]:
        """Read row groups."""
        with open_table(io.BytesIO(self.data)) as table:
            return [_batch(read_rows(table, group), self.meta) for group in row_groups]


class SoftLabels(Dataset[LabelBatch]):
    """All label batches of an image set, by (epoch, batch).

    Args:
        blocks: in the order of epochs.

    Raises:
        ArtifactError: if an epoch is missing or occurs twice.
    """

    def __init__(self, blocks: Sequence[LabelBlock]) -> None:
        self._blocks = sorted(blocks, key=lambda block: int(block.meta["first_epoch"]))
        self._of_epoch = [block for block in self._blocks for _ in range(block.meta["epochs"])]
        firsts = [block.meta["first_epoch"] + i for block in self._blocks for i in range(block.meta["epochs"])]
        if firsts != list(range(len(firsts))):
            raise ArtifactError(f"soft labels cover epochs {firsts[:3]}..., not each epoch once")
        self.epochs, self.augment = len(firsts), str(self._blocks[0].meta.get("augment", "none"))
        self.batches = int(self._blocks[0].meta["batches"])

    def epoch(self, epoch: int) -> list[LabelBatch]:
        """Read all batches of an epoch, in order."""
        block = self._of_epoch[epoch]
        start = (epoch - block.meta["first_epoch"]) * self.batches
        return block.read(range(start, start + self.batches))

    def __len__(self) -> int:
        return self.epochs * self.batches

    def __getitem__(self, position: tuple[int, int]) -> LabelBatch:
        epoch, batch = position
        block = self._of_epoch[epoch]
        return block.read([(epoch - block.meta["first_epoch"]) * self.batches + batch])[0]


def check_labels(labels: SoftLabels, images: ImageSet) -> None:
    """Check that the labels are of this image set, by the rows that they name.

    Raises:
        ArtifactError: if a row is out of range.
    """
    last = max(int(batch.images.max()) for batch in labels.epoch(0))
    if last >= len(images):
        raise ArtifactError(f"soft labels name image {last}, the set has {len(images)}")


_INTS = {"epoch": pa.int32(), "batch": pa.int32(), "image": pa.int32(), "partner": pa.int32(), "flip": pa.bool_()}
_PIXELS = ("top", "left", "height", "width", "mix_top", "mix_left", "mix_bottom", "mix_right")


def _schema(classes: int, mixup: bool, augmented: bool) -> pa.Schema:
    fields = [pa.field(name, dtype) for name, dtype in _INTS.items()]
    fields += [pa.field(name, pa.uint16()) for name in _PIXELS]
    fields += [pa.field("mix_share", pa.float32())] if mixup else []
    fields += [pa.field("augment_seed", pa.int64()), pa.field("brightness", pa.float32())] if augmented else []
    return pa.schema([*fields, pa.field("logits", pa.binary(2 * classes))])


def _table(batch: LabelBatch, schema: pa.Schema) -> pa.Table:
    n = len(batch.images)
    columns = {"epoch": batch.epoch, "batch": batch.batch, "image": batch.images, "partner": batch.partner}
    columns |= {"flip": batch.views.flip, **dict(zip(_PIXELS, (*batch.views.box.T, *batch.box), strict=True))}
    columns |= {"mix_share": batch.share, "augment_seed": batch.augment_seed, "brightness": batch.brightness}
    width = schema.field("logits").type
    logits = pa.FixedSizeBinaryArray.from_buffers(width, n, [None, pa.py_buffer(batch.logits.contiguous().numpy())])
    arrays = [pa.array(np.full(n, columns[name])).cast(schema.field(name).type) for name in schema.names[:-1]]
    return pa.Table.from_arrays([*arrays, logits], schema=schema)


def _batch(table: pa.Table, meta: dict[str, Any]) -> LabelBatch:
    values = {name: column(table, name) for name in table.column_names[:-1]}
    box = torch.from_numpy(np.stack([values[name].astype(np.int32) for name in _PIXELS[:4]], axis=1))
    flip = torch.from_numpy(values["flip"].astype(bool))
    views = Views(box, flip, torch.zeros(len(flip), 2, dtype=torch.int32))
    raw = b"".join(table.column("logits").to_pylist())
    logits = torch.frombuffer(bytearray(raw), dtype=torch.float16).view(-1, meta["classes"])
    top, left, bottom, right = (int(values[name][0]) for name in _PIXELS[4:])
    rows, partner = (torch.from_numpy(values[name].astype(np.int64)) for name in ("image", "partner"))
    position = int(values["epoch"][0]), int(values["batch"][0])
    share = float(values["mix_share"][0]) if "mix_share" in values else 1.0
    batch = LabelBatch(*position, rows, views, partner, (top, left, bottom, right), logits, share)
    if "augment" not in meta:
        return batch
    seed, brightness = int(values["augment_seed"][0]), torch.from_numpy(values["brightness"].copy())
    return replace(batch, augment=meta["augment"], augment_seed=seed, brightness=brightness)
