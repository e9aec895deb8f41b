"""The artifact of a trained network: its weights, and what its input must look like."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Self

from torch import Tensor, nn

from wmdd.config.base import Stem
from wmdd.models.registry import build_model, load_state
from wmdd.normalization import NORMALIZATIONS, Normalization
from wmdd.storage.artifact import Files, pack, unpack


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network, with what its input must look like.

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
        """The channel constants of its input."""
        return NORMALIZATIONS[self.normalization]

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network in evaluation mode, without gradients for its weights."""
        network = build_model(self.model, self.num_classes, self.image_size, stem=self.stem)
        load_state(network, self.weights, transform_input=self.transform_input)
        return network.eval().requires_grad_(False)

    def to_files(self) -> dict[str, bytes]:
        """Return ``teacher.safetensors`` with the card as metadata."""
        card = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "weights"}
        return {"teacher.safetensors": pack(self.weights, card)}

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read what `to_files` returned."""
        weights, card = unpack(files.read("teacher.safetensors"))
        card["class_names"], card["curve"] = tuple(card["class_names"]), tuple(card["curve"])
        return cls(weights=weights, **card)
