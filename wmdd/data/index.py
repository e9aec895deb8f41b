"""The index of a real set: every image's place, class, size and content digest."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wmdd.errors import DataError
from wmdd.storage.artifact import Files
from wmdd.storage.parquet import column, number_table, read_table

_FILE = "index.parquet"
LEVELS = ("low", "high", "white", "several", "alpha")


@dataclass(frozen=True, eq=False)
class Split:
    """The images of a split in a fixed order: (n,) columns of one value for each image."""

    files: tuple[str, ...]  # paths relative to the set's root
    file: Annotated[np.ndarray, np.int32]  # position in `files`
    row: Annotated[np.ndarray, np.int64]  # inside a Parquet file, -1 for an image file
    label: Annotated[np.ndarray, np.int32]  # class id
    height: Annotated[np.ndarray, np.int32]  # px, as the image is decoded
    width: Annotated[np.ndarray, np.int32]
    digest: Annotated[np.ndarray, np.uint64]  # of the encoded bytes
    orientation: Annotated[np.ndarray, np.int8]  # as EXIF numbers them; 1 is upright
    low: Annotated[np.ndarray, np.float32]  # the least value in the file
    high: Annotated[np.ndarray, np.float32]  # the greatest value in the file
    white: Annotated[np.ndarray, np.int64]  # the value that is decoded to 255; 0 if the index decoded none
    several: Annotated[np.ndarray, np.int8]  # 1 if the file holds further frames or pages
    alpha: Annotated[np.ndarray, np.int8]  # 1 if the image has transparency

    def __len__(self) -> int:
        return len(self.label)

    def of_class(self, class_id: int) -> np.ndarray:
        """Return the positions of a class's images, ascending."""
        order, ends = self._by_class
        return order[ends[class_id] : ends[class_id + 1]] if 0 <= class_id < len(ends) - 1 else order[:0]

    @functools.cached_property
    def _by_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions sorted by class, and where each class begins: to search all for each takes long."""
        order = np.argsort(self.label, kind="stable")
        classes = np.arange(self.label.max(initial=-1) + 2)
        return order, np.searchsorted(self.label[order], classes)

    def image_name(self, position: int) -> str:
        """Return the name of an image for messages: its file, and its row in a Parquet file."""
        file, row = self.files[self.file[position]], int(self.row[position])
        return file if row < 0 else f"{file} row {row}"

    def uniform_size(self) -> tuple[int, int] | None:
        """Return (height, width) if all images share it."""
        if len(self) and (self.height == self.height[0]).all() and (self.width == self.width[0]).all():
            return int(self.height[0]), int(self.width[0])
        return None

    def take(self, rows: np.ndarray) -> Split:
        """Return the images at some positions, in the given order."""
        return Split(self.files, *(getattr(self, name)[rows] for name in COLUMNS))

    def upright(self) -> Split:
        """Return the images with the sizes that they have once they are turned upright."""
        is_quarter = self.orientation >= 5
        height, width = np.where(is_quarter, (self.width, self.height), (self.height, self.width))
        return replace(self, height=height, width=width)


COLUMNS: dict[str, type[np.generic]] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Split, include_extras=True).items() if name != "files"
}


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """A real set, ready to be read."""

    url: str  # its root
    kind: str  # folder, parquet or builtin
    class_names: tuple[str, ...]  # class ids are positions in it
    train: Split
    val: Split
    val_held_out: bool  # the validation images were taken from the training split, because there is no other
    upright: bool = False  # images are turned as their EXIF orientation asks for, wherever they are decoded
    bits: int | None = None  # that grey images of more than 8 bits use; None for all that their files have
    notes: tuple[str, ...] = ()  # about how the set was read; stored are only those about labels

    @functools.cached_property
    def smallest_class(self) -> int:
        """Training images of the class that has fewest."""
        return int(np.bincount(self.train.label, minlength=len(self.class_names)).min())

    def split(self, name: str) -> Split:
        """Return the ``train`` or ``val`` split."""
        return self.train if name == "train" else self.val

    def fits(self, split: Literal["train", "val"], image_size: int, memory_bytes: float) -> bool:
        """Whether a split's images are kept decoded: as they are to train on, in networks' size to validate on.

        Args:
            image_size: height and width of networks' inputs, px.
        """
        part, size = self.split(split), (image_size, image_size)
        if split == "train":
            uniform = part.uniform_size()
            if uniform is None or max(uniform) > image_size:
                return False  # larger images are cropped before they are resized, which needs the originals
            size = uniform
        return len(part) * 3 * size[0] * size[1] <= memory_bytes

    def class_digest(self, class_id: int) -> str:
        """Return the hash of one class's name and training images; it does not depend on other classes."""
        return self._class_digests[class_id]

    @functools.cached_property
    def _class_digests(self) -> list[str]:
        images = (self.train.digest[self.train.of_class(number)] for number in range(len(self.class_names)))
        names = (name.encode() for name in self.class_names)
        return [_hash(name, part.tobytes(), *self._decoded) for name, part in zip(names, images, strict=True)]

    def digest(self, split: Literal["train", "val"]) -> str:
        """Return the hash of a split: class names, labels and contents, in order."""
        part = self.split(split)
        return _hash(json.dumps(self.class_names).encode(), part.label.tobytes(), part.digest.tobytes(), *self._decoded)

    @property
    def _decoded(self) -> tuple[bytes, ...]:
        upright = (b"upright",) if self.upright else ()
        return upright if self.bits is None else (*upright, f"bits {self.bits}".encode())

    def to_files(self) -> dict[str, bytes]:
        """Return one Parquet table of both splits."""
        columns = {name: np.concatenate([getattr(self.train, name), getattr(self.val, name)]) for name in COLUMNS}
        card = {name: getattr(self, name) for name in ("url", "kind", "class_names", "val_held_out", "upright", "bits")}
        card |= {"notes": self.notes} if self.notes else {}
        card |= {"train": len(self.train), "train_files": self.train.files, "val_files": self.val.files}
        table = number_table(columns).replace_schema_metadata({"wmdd": json.dumps(card)})
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd")
        return {_FILE: out.getvalue()}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read what `to_files` returned."""
        table = read_table(files.read(_FILE))
        card = json.loads(table.schema.metadata[b"wmdd"])
        for name in LEVELS if "white" not in table.column_names else ():  # of an earlier version
            table = table.append_column(name, pa.array(np.zeros(len(table), np.int8)))
        columns = [column(table, name).astype(dtype) for name, dtype in COLUMNS.items()]
        train = Split(tuple(card["train_files"]), *(values[: card["train"]] for values in columns))
        val = Split(tuple(card["val_files"]), *(values[card["train"] :] for values in columns))
        names, upright, bits = tuple(card["class_names"]), card["upright"], card.get("bits")
        notes = tuple(card.get("notes", ()))
        return cls(card["url"], card["kind"], names, train, val, card["val_held_out"], upright, bits, notes)


def hold_out(index: DatasetIndex, share: float) -> DatasetIndex:
    """Use a share of each class's training images, chosen by their content, as validation images.

    Raises:
        DataError: if a class has one training image.
    """
    train = index.train
    counts = np.bincount(train.label, minlength=len(index.class_names))
    if (counts < 2).any():
        name = index.class_names[int((counts < 2).argmax())]
        raise DataError(f"data.path={index.url}: class {name} has one training image, none can be held out; add more")
    is_held = _first_by_content(train, [min(math.ceil(count * share), count - 1) for count in counts.tolist()])
    train, val = train.take(np.flatnonzero(~is_held)), train.take(np.flatnonzero(is_held))
    return replace(index, train=train, val=val, val_held_out=True)


def limit(index: DatasetIndex, count: int) -> DatasetIndex:
    """Return at most `count` images of each class and split, chosen by their content, in the order of the set."""
    counts = [count] * len(index.class_names)
    train, val = (split.take(np.flatnonzero(_first_by_content(split, counts))) for split in (index.train, index.val))
    return replace(index, train=train, val=val)


def _first_by_content(split: Split, counts: list[int]) -> np.ndarray:
    """Return (n,) bool, whether an image is one of the first of its class in the order of digests, then positions."""
    is_first = np.zeros(len(split), dtype=bool)
    for class_id, count in enumerate(counts):
        positions = split.of_class(class_id)
        is_first[positions[np.argsort(split.digest[positions], kind="stable")[:count]]] = True
    return is_first


def content_digest(data: bytes) -> int:
    """Return the hash of an image's encoded bytes, 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _hash(*parts: bytes) -> str:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()
