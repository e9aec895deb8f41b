"""The artifacts of the method, one for each class: statistics, barycenter and images; each is checked when built."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from wmdd.method.moments import Moments
from wmdd.method.tiles import decode
from wmdd.storage.artifact import Files, pack, unpack


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Features and batch-norm moments of the real images of a class.

    Args:
        class_id: position in the class names.
        class_name: its name ("" in artifacts of older versions).
        features: (n, d) float32, penultimate features in the order of the index.
        moments: one per batch-norm layer, over all n images and positions.
    """

    class_id: int
    features: Tensor
    moments: tuple[Moments, ...]
    class_name: str = ""

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not len(self.features) or not torch.isfinite(self.features).all():
            raise ValueError(f"features of class {self.class_id} are empty or not finite")
        for layer, moments in enumerate(self.moments):
            if moments.count % len(self.features):
                raise ValueError(f"batch-norm layer {layer} of class {self.class_id} saw another number of images")

    def to_files(self) -> dict[str, bytes]:
        """Return one safetensors file."""
        tensors = {"features": self.features}
        for layer, moments in enumerate(self.moments):
            tensors |= {f"mean.{layer}": moments.mean, f"var.{layer}": moments.var}
        meta = {"class_id": self.class_id, "class_name": self.class_name}
        meta |= {"counts": [moments.count for moments in self.moments]}
        return {"statistics.safetensors": pack(tensors, meta)}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read the file."""
        tensors, meta = unpack(files.read("statistics.safetensors"))
        moments = tuple(
            Moments(count, tensors[f"mean.{layer}"], tensors[f"var.{layer}"])
            for layer, count in enumerate(meta["counts"])
        )
        return cls(meta["class_id"], tensors["features"], moments, meta.get("class_name", ""))


@dataclass(frozen=True, eq=False)
class _OneFile:
    """An artifact that is one safetensors file: its tensors, and its other fields as metadata."""

    FILE: ClassVar[str]

    def to_files(self) -> dict[str, bytes]:
        """Return the file."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return {self.FILE: pack(tensors, {name: value for name, value in values.items() if name not in tensors})}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read the file."""
        tensors, meta = unpack(files.read(cls.FILE))
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in meta.items()}
        return cls(**tensors, **values)


@dataclass(frozen=True, eq=False)
class Barycenter(_OneFile):
    """The atoms of a class in feature space.

    Args:
        support: (ipc, d) float32 atoms.
        mass: (ipc,) float32, sum to 1.
        nearest: (ipc,) int64, positions among the class's images of distinct ones that are nearest to the atoms.
        objective: squared Wasserstein distance at each step.
        converged: whether the objective met its tolerance.
        norms: 5 quantiles (0, 25, 50, 75, 100 %) of the feature norms, which show heavy tails.
        class_name: as for `ClassStatistics`.
    """

    FILE = "barycenter.safetensors"
    class_id: int
    support: Tensor
    mass: Tensor
    nearest: Tensor
    objective: tuple[float, ...]
    converged: bool
    norms: tuple[float, ...]
    class_name: str = ""

    def __post_init__(self) -> None:
        if abs(float(self.mass.sum()) - 1) > 1e-4 or not torch.isfinite(self.support).all():
            raise ValueError(f"barycenter of class {self.class_id}: masses must sum to 1 and atoms be finite")


@dataclass(frozen=True, eq=False)
class DistilledClass(_OneFile):
    """The images of a class: distilled, or real ones as a baseline.

    Args:
        images: (ipc, 3, h, w) uint8.
        mass: (ipc,) float32, sum to 1.
        losses: (records, terms) float32, loss terms during the optimisation; empty for real images.
        terms: names of the loss terms.
        sources: positions among the class's real images of those that the images started from, or -1.
        notes: for the manifest, such as smaller tensor batches after the device was full.
        class_name: as for `ClassStatistics`.
        tiles: each image holds tiles x tiles smaller ones (`method.tiles`); `sources` has one for each of them.
    """

    FILE = "images.safetensors"
    class_id: int
    images: Tensor
    mass: Tensor
    losses: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    terms: tuple[str, ...] = ()
    sources: tuple[int, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    class_name: str = ""
    tiles: int = 1

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or len(self.images) != len(self.mass):
            raise ValueError(f"class {self.class_id}: {tuple(self.images.shape)} {self.images.dtype} images")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of all classes as networks see them, in the order of class ids; k of each class.

    Args:
        images: (classes * k, 3, h, w) uint8; tiles are enlarged.
        labels: (classes * k,) int64.
        mass: (classes * k,) float32, sum to 1 within each class.
    """

    images: Tensor
    labels: Tensor
    mass: Tensor

    @staticmethod
    def of(classes: list[DistilledClass]) -> ImageSet:
        """Return the set of these classes, in the order of their ids; ids may be missing.

        Raises:
            ValueError: if a class occurs twice.
        """
        classes = sorted(classes, key=lambda item: item.class_id)
        if len({item.class_id for item in classes}) < len(classes):
            raise ValueError("a set needs a class once")
        labels = torch.cat([torch.full((len(item.images) * item.tiles**2,), item.class_id) for item in classes])
        images = torch.cat([decode(item.images, item.tiles) for item in classes])
        masses = [item.mass.repeat_interleave(item.tiles**2) / item.tiles**2 for item in classes]
        return ImageSet(images, labels, torch.cat(masses))

    def __len__(self) -> int:
        return len(self.images)
