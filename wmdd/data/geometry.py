"""How real images become inputs of networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wmdd.normalization import Normalization


@dataclass(frozen=True)
class Geometry:
    """How real images become inputs: size in px, share kept by the centre crop, channel constants by name."""

    image_size: int
    crop_ratio: float
    normalization: str

    @property
    def pixels(self) -> Normalization:
        """The channel constants."""
        from wmdd.normalization import NORMALIZATIONS  # imports torch, which plans do without

        return NORMALIZATIONS[self.normalization]
