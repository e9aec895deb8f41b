"""Soft labels: label batches with the teacher's logits, stored as Parquet and read in any order.

A block of epochs is one file with a row for each image of each batch, in the order of (epoch, batch). A row group holds
whole batches, as many as fit into `GROUP_BYTES`, and is decoded once for all of them: one row group for a block of a
small set, some for each epoch of a large set. A sampler of pairs (epoch, batch) and ``DataLoader(batch_size=None)``
read `SoftLabels` in any process and any order.

Cost: for each image and epoch 2 bytes for each class, of which compression saves about 8 %, and 4 bytes for its view.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wmdd.data.views import Views
from wmdd.errors import ArtifactError
from wmdd.method.artifacts import ImageSet
from wmdd.method.label_batches import LabelBatch
from wmdd.storage.artifact import Files
from wmdd.storage.parquet import column, number_table, open_table, read_rows

GROUP_BYTES = 2**25  # of a row group: enough for compression, and little to decode for one of its batches


@dataclass(frozen=True, eq=False)
class LabelBlock:
    """Consecutive epochs of label batches, as one Parquet file.

    Args:
        data: the file.
        meta: first epoch, number of epochs, batches per epoch, classes and their names in the order of the logits, the
            change of the images before their views, if any, and batches per row group.
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
        """Return a block of label batches; the batches per row group are added to its `meta`."""
        batches = list(batches)
        mixup, augment = any(batch.share < 1 for batch in batches), batches[0].augment
        meta = meta if augment == "none" else {**meta, "augment": augment}
        count = _batches_per_group(max(len(batch.images) for batch in batches), meta)
        meta = {**meta, "batches_per_group": count}
        schema = _schema(meta["classes"], mixup, "augment" in meta).with_metadata({"wmdd": json.dumps(meta)})
        # Logits hardly repeat: a dictionary of them is as large as they are.
        options = {"use_dictionary": schema.names[:-1], "write_statistics": ["epoch", "batch"]}
        out = io.BytesIO()
        with pq.ParquetWriter(out, schema, compression="zstd", **options) as writer:
            for start in range(0, len(batches), count):
                table = _table(batches[start : start + count], schema)
                writer.write_table(table, row_group_size=len(table))
        return cls(out.getvalue(), meta)

    def row_group(self, position: int) -> tuple[int, int]:
        """Return the row group of a batch, and its position there, by its position in the block."""
        count: int = self.meta.get("batches_per_group", 1)  # which is left out in files of older versions
        return divmod(position, count)

    def decode(self, row_group: int) -> list[LabelBatch]:
        """Return the batches of a row group, which are views of the same tensors."""
        with open_table(io.BytesIO(self.data)) as table:
            return _batches(read_rows(table, row_group), self.meta)

    def read(self, positions: Sequence[int]) -> list[LabelBatch]:
        """Read batches by their positions in the block."""
        places = [self.row_group(position) for position in positions]
        decoded = {row_group: self.decode(row_group) for row_group in dict(places)}
        return [decoded[row_group][position] for row_group, position in places]


class SoftLabels(Dataset[LabelBatch]):
    """All label batches of an image set, by (epoch, batch); the row group that was read last stays decoded.

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
        self._decoded: tuple[LabelBlock, int, list[LabelBatch]] | None = None

    def epoch(self, epoch: int) -> list[LabelBatch]:
        """Read all batches of an epoch, in order."""
        return [self[epoch, batch] for batch in range(self.batches)]

    def __len__(self) -> int:
        return self.epochs * self.batches

    def __getitem__(self, place: tuple[int, int]) -> LabelBatch:
        epoch, batch = place
        block = self._of_epoch[epoch]
        row_group, position = block.row_group((epoch - block.meta["first_epoch"]) * self.batches + batch)
        if self._decoded is None or self._decoded[:2] != (block, row_group):
            self._decoded = None  # before the next one is decoded
            self._decoded = block, row_group, block.decode(row_group)
        return self._decoded[2][position]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoded": None}  # another process decodes what it reads


def check_labels(labels: SoftLabels, images: ImageSet) -> None:
    """Check that the labels are of this image set, by the rows that they name.

    Raises:
        ArtifactError: if a row is out of range.
    """
    last = max(int(labels[0, batch].images.max()) for batch in range(labels.batches))
    if last >= len(images):
        raise ArtifactError(f"soft labels name image {last}, the set has {len(images)}")


_INTS = {"epoch": pa.int32(), "batch": pa.int32(), "image": pa.int32(), "partner": pa.int32(), "flip": pa.bool_()}
_CROP, _MIX = ("top", "left", "height", "width"), ("mix_top", "mix_left", "mix_bottom", "mix_right")
_VIEW_BYTES = 33  # a row's columns without its logits


def _schema(classes: int, mixup: bool, augmented: bool) -> pa.Schema:
    fields = [pa.field(name, dtype) for name, dtype in _INTS.items()]
    fields += [pa.field(name, pa.uint16()) for name in (*_CROP, *_MIX)]
    fields += [pa.field("mix_share", pa.float32())] if mixup else []
    fields += [pa.field("augment_seed", pa.int64()), pa.field("brightness", pa.float32())] if augmented else []
    return pa.schema([*fields, pa.field("logits", pa.binary(2 * classes))])


def _batches_per_group(images: int, meta: dict[str, Any]) -> int:
    """Return how many batches, of `images` images at most, share a row group: those of whole epochs, or of a part."""
    count: int = max(1, GROUP_BYTES // (images * (2 * meta["classes"] + _VIEW_BYTES)))
    return count - count % meta["batches"] if count > meta["batches"] else count


def _table(batches: Sequence[LabelBatch], schema: pa.Schema) -> pa.Table:
    sizes = [len(batch.images) for batch in batches]
    of_batches = [(batch.epoch, batch.batch, *batch.box, batch.share, batch.augment_seed) for batch in batches]
    names = ("epoch", "batch", *_MIX, "mix_share", "augment_seed")
    columns = dict(zip(names, (np.repeat(values, sizes) for values in zip(*of_batches, strict=True)), strict=True))
    columns |= {"image": _joined([batch.images for batch in batches])}
    columns |= {"partner": _joined([batch.partner for batch in batches])}
    columns |= {"flip": _joined([batch.views.flip for batch in batches]).astype(np.uint8)}
    columns |= dict(zip(_CROP, _joined([batch.views.box for batch in batches]).T, strict=True))
    columns |= {"brightness": _joined([batch.brightness for batch in batches])}
    numbers = number_table({name: columns[name] for name in schema.names[:-1]})
    arrays = [numbers.column(name).combine_chunks().cast(schema.field(name).type) for name in numbers.column_names]
    logits = pa.py_buffer(_joined([batch.logits for batch in batches]))
    binary = pa.FixedSizeBinaryArray.from_buffers(schema.field("logits").type, sum(sizes), [None, logits])
    return pa.Table.from_arrays([*arrays, binary], schema=schema)


def _joined(parts: list[Tensor]) -> np.ndarray:
    joined: np.ndarray = torch.cat(parts).numpy()
    return joined


def _batches(table: pa.Table, meta: dict[str, Any]) -> list[LabelBatch]:
    values = {name: column(table, name) for name in table.column_names[:-1]}
    starts = np.flatnonzero(np.diff(values["epoch"], prepend=-1) | np.diff(values["batch"], prepend=-1))
    sizes = np.diff(starts, append=len(table)).tolist()
    numbers = {name: array[starts].tolist() for name, array in values.items()}
    tensors = {name: torch.from_numpy(values[name].astype(np.int64)).split(sizes) for name in ("image", "partner")}
    crops = torch.from_numpy(np.stack([values[name].astype(np.int32) for name in _CROP], axis=1)).split(sizes)
    flips = torch.from_numpy(values["flip"].astype(bool)).split(sizes)
    rolls = torch.zeros(len(table), 2, dtype=torch.int32).split(sizes)
    logits = _logits(table, meta["classes"]).split(sizes)
    changes: list[dict[str, Any]] = [{}] * len(sizes)
    if "augment" in meta:
        brightness = torch.from_numpy(values["brightness"].copy()).split(sizes)
        changes = [
            {"augment": meta["augment"], "augment_seed": seed, "brightness": mean}
            for seed, mean in zip(numbers["augment_seed"], brightness, strict=True)
        ]
    return [
        LabelBatch(
            epoch=numbers["epoch"][i],
            batch=numbers["batch"][i],
            images=tensors["image"][i],
            views=Views(crops[i], flips[i], rolls[i]),
            partner=tensors["partner"][i],
            box=(numbers["mix_top"][i], numbers["mix_left"][i], numbers["mix_bottom"][i], numbers["mix_right"][i]),
            logits=logits[i],
            share=numbers["mix_share"][i] if "mix_share" in numbers else 1.0,
            **changes[i],
        )
        for i in range(len(sizes))
    ]


def _logits(table: pa.Table, classes: int) -> Tensor:
    """Return the (rows, classes) float16 logits, copied out of Arrow's memory, which is read-only."""
    binary = table.column("logits").combine_chunks()
    values = np.frombuffer(binary.buffers()[1], np.float16, len(table) * classes, offset=2 * classes * binary.offset)
    return torch.from_numpy(values.reshape(-1, classes).copy())
