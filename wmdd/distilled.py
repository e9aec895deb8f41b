"""The distilled images as Parquet, and as a torch dataset: what a user of the result imports."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from wmdd.config.callers import names_arguments
from wmdd.data.decoding.pixels import png, to_image, to_tensor
from wmdd.data.hf_parquet import encoded_images, image_table, parquet_class_names
from wmdd.errors import SHOWN, ArtifactError, StorageError
from wmdd.method.artifacts import DistilledClass
from wmdd.method.tiles import decode
from wmdd.storage.filesystem import entries, explain, open_fs, read
from wmdd.storage.parquet import read_table
from wmdd.text import printable


def images_table(classes: Sequence[DistilledClass], class_names: Sequence[str]) -> pa.Table:
    """Return classes in the schema of Hugging Face `datasets`: lossless PNG bytes, label, class name and weight.

    Images that hold tiles stay as they are; the column ``tiles`` then has the number of tiles on each side.
    """
    rows = [(item, place) for item in classes for place in range(len(item.images))]
    values: dict[str, tuple[str, list[Any]]] = {
        "class_name": ("string", [class_names[item.class_id] for item, _ in rows]),
        "weight": ("float32", [float(item.mass[place]) for item, place in rows]),
    }
    if any(item.tiles > 1 for item, _ in rows):
        values["tiles"] = ("int32", [item.tiles for item, _ in rows])
    images = ((png(to_image(item.images[place])), f"{item.class_id:05d}-{place:05d}.png") for item, place in rows)
    return image_table(images, [item.class_id for item, _ in rows], class_names, values)


@dataclass(eq=False, repr=False)
class DistilledImages(Dataset[tuple[Any, int]]):
    """Distilled images in the order of their classes.

    Args:
        images: (n, 3, h, w) uint8.
        labels: (n,) int64.
        weights: (n,) float32, sum to 1 within each class.
        class_names: by label.
        transform: applied to each (3, h, w) uint8 image; without one, items are float32 in [0, 1].
        url: of the run folder that they were read from.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    class_names: tuple[str, ...]
    transform: Callable[[Tensor], Any] | None = None
    url: str = ""

    def __repr__(self) -> str:
        counts = sorted(set(torch.bincount(self.labels, minlength=len(self.class_names)).tolist()))
        each = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
        size = " x ".join(map(str, self.images.shape[-2:]))
        names = ", ".join(self.class_names[:SHOWN]) + (", ..." if len(self.class_names) > SHOWN else "")
        source = f"; from {self.url}" if self.url else ""
        return printable(
            f"DistilledImages({len(self)} images of {size} px, {each} for each of {len(self.class_names)} classes "
            f"({names}){source})"
        )

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> tuple[Any, int]: ...
    @overload
    def __getitem__(self, index: slice) -> DistilledImages: ...
    def __getitem__(self, index: int | slice) -> tuple[Any, int] | DistilledImages:
        """Return an image with its label; of a slice, a set of these images, with the weights that they have here."""
        if isinstance(index, slice):
            rows = torch.arange(len(self))[list(range(len(self))[index])]  # torch takes no negative step
            parts = (self.images[rows], self.labels[rows], self.weights[rows])
            return DistilledImages(*parts, self.class_names, self.transform, self.url)
        try:
            index = operator.index(index)
        except TypeError as exc:
            raise TypeError(
                f"images[{index!r}]: give a whole number or a slice; torch.utils.data.Subset takes a list"
            ) from exc
        image = self.images[index]
        return (self.transform(image) if self.transform else image.float() / 255), int(self.labels[index])


@names_arguments()
def load_distilled(run: str, transform: Callable[[Tensor], Any] | None = None) -> DistilledImages:
    """Return the distilled images of a run folder as networks see them: tiles are enlarged to images.

    Args:
        run: URL of the folder that `wmdd distill` wrote.
        transform: from a (3, h, w) uint8 tensor, such as torchvision's v2 transforms.

    Raises:
        ArtifactError: if there are no images, or they cannot be read.
    """
    fs, root = open_fs(run.rstrip("/"))
    try:
        paths = sorted(item["name"] for item in entries(fs, f"{root}/images") if item["name"].endswith(".parquet"))
        tables = [_table(path, read(fs, path)) for path in paths]
    except (OSError, EOFError) as exc:
        raise StorageError(f"{run}/images cannot be read {explain(exc)}") from exc
    if not tables:
        raise ArtifactError(
            f"{run}/images holds no Parquet file; give the folder of a wmdd distill run that is finished, or that made "
            "its images (--until recover)"
        )
    names = parquet_class_names(tables[0].schema, "label") or ()
    encoded = [data for table in tables for data in encoded_images(table.column("image")) if data is not None]
    images = torch.stack([to_tensor(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded])
    labels = torch.tensor([label for table in tables for label in table.column("label").to_pylist()])
    weights = torch.tensor([weight for table in tables for weight in table.column("weight").to_pylist()])
    if "tiles" in tables[0].column_names:
        tiles = int(tables[0].column("tiles")[0].as_py())
        images, labels = decode(images, tiles), labels.repeat_interleave(tiles**2)
        weights = weights.repeat_interleave(tiles**2) / tiles**2
    return DistilledImages(images, labels, weights, names, transform, run)


def _table(path: str, data: bytes) -> pa.Table:
    try:
        return read_table(data)
    except (pa.ArrowInvalid, OSError) as exc:
        raise ArtifactError(f"{path}: is no whole Parquet file; wmdd report writes a run's files again") from exc
