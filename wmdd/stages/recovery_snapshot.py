"""What a group of classes leaves while it is recovered, to go on from: after an interruption, or with more steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wmdd.config.recovery import RecoverConfig
from wmdd.method.objective import term_weights
from wmdd.method.recovery import Paused, Recovered, record_every
from wmdd.storage.artifact import pack, unpack

STATE = ("images", "exp_avg", "exp_avg_sq")
Parts = list[Paused | Recovered]


@dataclass(frozen=True, eq=False)
class RecoverySnapshot:
    """How far a group is.

    Args:
        layout: names of the units of each tensor batch, in order; several batches if the device could not hold one.
        batches: for each tensor batch how far its images are, in parts if not all are optimised at once. A part that
            has not begun is left out, and so are the parts of a tensor batch whose images are stored.
    """

    layout: list[list[str]]
    batches: list[Parts]

    def write(self) -> bytes:
        """Return it as a safetensors file."""
        tensors: dict[str, Tensor] = {}
        steps: list[list[int | None]] = []
        for number, parts in enumerate(self.batches):
            for index, part in enumerate(parts):
                values = part.state if isinstance(part, Paused) else {"recovered": part.images}
                values = values | {"losses": part.losses}
                tensors |= {f"{number}.{index}.{name}": tensor for name, tensor in values.items()}
            steps.append([part.step if isinstance(part, Paused) else None for part in parts])
        diverged = [[list(part.diverged.items()) for part in parts] for parts in self.batches]
        meta: dict[str, Any] = {"layout": self.layout, "steps": steps, "diverged": diverged}
        return pack(tensors, meta)

    @staticmethod
    def read(data: bytes, names: Sequence[str]) -> RecoverySnapshot:
        """Read what `write` wrote for the units of these names; raise ValueError if it is damaged, or of others."""
        try:
            tensors, meta = unpack(data)
            layout = meta["layout"]
            batches = [
                [
                    _part(f"{number}.{index}.", tensors, step, meta["diverged"][number][index])
                    for index, step in enumerate(steps)
                ]
                for number, steps in enumerate(meta["steps"])
            ]
        except Exception as exc:  # each library below raises other errors for bytes that are none of its files
            raise ValueError(f"it cannot be read ({type(exc).__name__})") from exc
        if [name for batch in layout for name in batch] != list(names):
            raise ValueError("it is of other classes")
        return RecoverySnapshot(layout, batches)

    def check(self, section: RecoverConfig, steps: int, sizes: Sequence[int], size: int) -> None:
        """Raise ValueError if it is not of this optimisation, or is behind the end of it.

        Args:
            steps: to run.
            sizes: number of images of a class in each part.
            size: of the images in px.
        """
        terms, every = len(term_weights(section)), record_every(section.iterations)
        for names, parts in zip(self.layout, self.batches, strict=True):
            if len(parts) > len(sizes):
                raise ValueError("it is of another optimisation")
            for images, part in zip(sizes, parts, strict=False):
                done = part.step if isinstance(part, Paused) else section.iterations
                values = [*part.state.values()] if isinstance(part, Paused) else [part.images]
                fits = tuple(part.losses.shape) == (len(names), len(range(0, done, every)), terms)
                fits &= all(tuple(tensor.shape) == (len(names), images, 3, size, size) for tensor in values)
                if not fits:
                    raise ValueError("it is of another optimisation")
                if done > steps:
                    raise ValueError("it is of a longer optimisation")


def _part(prefix: str, tensors: dict[str, Tensor], step: int | None, diverged: list[Any]) -> Paused | Recovered:
    losses, reasons = tensors[f"{prefix}losses"], {int(place): str(reason) for place, reason in diverged}
    if step is None:
        return Recovered(tensors[f"{prefix}recovered"], losses, reasons)
    return Paused(step, losses, reasons, {name: tensors[f"{prefix}{name}"] for name in STATE})
