"""The values that flow between stages. Each checks itself when it is built, and knows its files."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, Self

import safetensors.torch
import torch
from torch import Tensor, nn

from wmdd.data.normalization import NORMALIZATIONS, Normalization
from wmdd.errors import ArtifactError
from wmdd.models.registry import build_model, load_state
from wmdd.moments import Moments
from wmdd.sections import Stem


class Files(Protocol):
    """The files of one stored artifact."""

    def read(self, name: str) -> bytes:
        """Give the whole content of a file."""


class Artifact(Protocol):
    """A value that can be stored: data only, never code."""

    def to_files(self) -> dict[str, bytes]:
        """Give file names and contents."""

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read what `to_files` wrote."""


def pack(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """Write tensors and JSON-able facts as one safetensors file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data: bytes = safetensors.torch.save(plain, metadata={"wmdd": json.dumps(meta)})
    return data


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `pack` wrote."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return safetensors.torch.load(data), json.loads(header["__metadata__"]["wmdd"])


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network with everything that is needed to show it an image.

    Args:
        model, stem: as for `build_model`.
        weights: its state dict; must fit strictly.
        class_names: in the order of its outputs.
        top1: accuracy on the real validation images, in [0, 1].
        image_size: input height and width, px.
        crop_ratio: of the evaluation transform.
        normalization: name of the channel constants.
        curve: top-1 per epoch of training (empty for loaded weights).
        transform_input: torchvision's Inception and GoogLeNet shift the channels of their input if it is set.
    """

    model: str
    stem: Stem
    weights: dict[str, Tensor]
    class_names: tuple[str, ...]
    top1: float
    image_size: int
    crop_ratio: float
    normalization: str
    curve: tuple[dict[str, float], ...] = ()
    transform_input: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.top1 <= 1:
            raise ValueError(f"top1={self.top1} is no fraction")

    @property
    def num_classes(self) -> int:
        """Number of outputs."""
        return len(self.class_names)

    @property
    def pixels(self) -> Normalization:
        """How the network sees pixels."""
        return NORMALIZATIONS[self.normalization]

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network in evaluation mode, without gradients for its weights."""
        network = build_model(self.model, self.num_classes, self.image_size, stem=self.stem)
        load_state(network, self.weights, transform_input=self.transform_input)
        return network.eval().requires_grad_(False)

    def to_files(self) -> dict[str, bytes]:
        """Give ``teacher.safetensors`` with its card as metadata."""
        card = {name: getattr(self, name) for name in _CARD}
        return {"teacher.safetensors": pack(self.weights, card)}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read the weights and the card."""
        weights, card = unpack(files.read("teacher.safetensors"))
        card["class_names"], card["curve"] = tuple(card["class_names"]), tuple(card["curve"])
        return cls(weights=weights, **card)


_CARD = tuple(item.name for item in fields(Teacher) if item.name != "weights")


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """What one pass over the real images of a class yields.

    Args:
        class_id: position in the class names.
        class_name: what that class is called ("" in artifacts of older versions).
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
        """Give one safetensors file."""
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
class Barycenter:
    """The atoms that stand for a class in feature space.

    Args:
        support: (ipc, d) float32.
        weights: (ipc,) float32, sum to 1.
        nearest: (ipc,) int64, positions among the class's images of distinct real images nearest to the atoms.
        objective: squared Wasserstein distance per step.
        norms: 5 quantiles (0, 25, 50, 75, 100 %) of the feature norms, to show heavy tails.
        class_name: as for `ClassStatistics`.
    """

    class_id: int
    support: Tensor
    weights: Tensor
    nearest: Tensor
    objective: tuple[float, ...]
    converged: bool
    norms: tuple[float, ...]
    class_name: str = ""

    def __post_init__(self) -> None:
        if abs(float(self.weights.sum()) - 1) > 1e-4 or not torch.isfinite(self.support).all():
            raise ValueError(f"barycenter of class {self.class_id}: weights must sum to 1 and atoms be finite")

    def to_files(self) -> dict[str, bytes]:
        """Give one safetensors file."""
        tensors = {"support": self.support, "weights": self.weights, "nearest": self.nearest}
        meta = {name: getattr(self, name) for name in ("class_id", "class_name", "objective", "converged", "norms")}
        return {"barycenter.safetensors": pack(tensors, meta)}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read the file."""
        tensors, meta = unpack(files.read("barycenter.safetensors"))
        meta["objective"], meta["norms"] = tuple(meta["objective"]), tuple(meta["norms"])
        values: dict[str, Any] = {**tensors, **meta}
        return cls(**values)


@dataclass(frozen=True, eq=False)
class DistilledClass:
    """The images that stand for a class: distilled, or real ones for a baseline.

    Args:
        images: (ipc, 3, h, w) uint8.
        weights: (ipc,) float32, sum to 1.
        losses: (records, terms) float32, loss terms along the optimisation; empty for real images.
        terms: names of the loss terms.
        sources: positions among the class's real images that the images started from, or -1.
        notes: facts for the manifest, such as smaller tensor batches after a full device.
        state: of an optimisation that was cut short, to go on from: ``images`` and Adam's ``exp_avg`` and
            ``exp_avg_sq``, each (ipc, 3, h, w) float32.
        class_name: as for `ClassStatistics`.
    """

    class_id: int
    images: Tensor
    weights: Tensor
    losses: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    terms: tuple[str, ...] = ()
    sources: tuple[int, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    class_name: str = ""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or len(self.images) != len(self.weights):
            raise ValueError(f"class {self.class_id}: {tuple(self.images.shape)} {self.images.dtype} images")

    def to_files(self) -> dict[str, bytes]:
        """Give one safetensors file."""
        tensors = {"images": self.images, "weights": self.weights, "losses": self.losses}
        tensors |= {f"state.{name}": tensor for name, tensor in self.state.items()}
        meta = {name: getattr(self, name) for name in ("class_id", "class_name", "terms", "sources", "notes")}
        return {"images.safetensors": pack(tensors, meta)}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read the file."""
        tensors, meta = unpack(files.read("images.safetensors"))
        meta["terms"], meta["sources"] = tuple(meta["terms"]), tuple(meta["sources"])
        state = {name.removeprefix("state."): tensors.pop(name) for name in list(tensors) if name.startswith("state.")}
        values: dict[str, Any] = {**tensors, **meta}
        return cls(**values, state=state)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Every class's images, stacked by class id.

    Args:
        images: (classes * ipc, 3, h, w) uint8.
        labels: (classes * ipc,) int64.
        weights: (classes * ipc,) float32, sum to 1 within each class.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor

    @staticmethod
    def of(classes: list[DistilledClass]) -> ImageSet:
        """Stack classes, in the order of their ids; some may be left out."""
        classes = sorted(classes, key=lambda item: item.class_id)
        if len({item.class_id for item in classes}) < len(classes):
            raise ValueError("a set needs a class once")
        labels = torch.cat([torch.full((len(item.images),), item.class_id) for item in classes])
        images = torch.cat([item.images for item in classes])
        return ImageSet(images, labels, torch.cat([item.weights for item in classes]))

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class StudentResult:
    """How one student did on the real validation images.

    Args:
        student: network name.
        images: the training set, ``distilled`` or ``random-DRAW``.
        seed: which student.
        top1_last, top1_best: fractions after the last, and of the best validated epoch.
        top1_ema_last, top1_ema_best: the same of the averaged network, where there is one.
        curve: epoch, loss and top-1 per validated epoch.
        protocol, protocol_hash: what the score can be compared with.
        class_names: that the student was scored on, in the order of its outputs; none in artifacts of older versions.
    """

    student: str
    images: str
    seed: int
    top1_last: float
    top1_best: float
    curve: tuple[dict[str, float], ...]
    protocol: str
    protocol_hash: str
    top1_ema_last: float | None = None
    top1_ema_best: float | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        scores = (self.top1_last, self.top1_best, self.top1_ema_last or 0, self.top1_ema_best or 0)
        if not all(0 <= score <= 1 for score in scores):
            raise ValueError(f"top1 {scores} are no fractions")

    def to_files(self) -> dict[str, bytes]:
        """Give one JSON file."""
        return {"student.json": json.dumps(asdict(self)).encode()}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read the file."""
        values = json.loads(files.read("student.json"))
        try:
            values["curve"] = tuple(values["curve"])
            values["class_names"] = tuple(values.get("class_names", ()))
            return cls(**values)
        except (KeyError, TypeError) as exc:
            raise ArtifactError(f"student.json has another schema: {exc}") from exc
