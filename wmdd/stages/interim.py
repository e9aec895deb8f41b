"""What a group of classes leaves while it is recovered, to go on from if it is interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from wmdd.method.recovery import Paused, Recovered
from wmdd.storage.artifact import pack, unpack

STATE = ("images", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, eq=False)
class Interim:
    """How far a group is.

    Args:
        layout: names of the units of each tensor batch, in order; several batches if the device could not hold one.
        place: of the tensor batch that runs.
        running: where the images that are optimised now can go on.
        finished: parts of the images of each class that were optimised before these, if not all are at once.
    """

    layout: list[list[str]]
    place: int
    running: Paused
    finished: list[Recovered] = field(default_factory=list)

    def write(self) -> bytes:
        """Return it as a safetensors file."""
        running, finished = self.running, self.finished
        tensors = {"losses": running.losses} | _of_classes("state", running.state)
        for number, part in enumerate(finished):
            tensors |= {f"{number}.images": part.images, f"{number}.losses": part.losses}
            tensors |= _of_classes(f"{number}.state", part.state)
        meta: dict[str, Any] = {"layout": self.layout, "place": self.place, "step": running.step}
        diverged = [running.diverged, *(part.diverged for part in finished)]
        meta["diverged"] = [list(found.items()) for found in diverged]
        return pack(tensors, meta)

    @staticmethod
    def read(data: bytes, names: Sequence[str]) -> Interim:
        """Read what `write` wrote for the units of these names.

        Raises:
            ValueError: if it is damaged, or of other units.
        """
        try:
            tensors, meta = unpack(data)
            layout, place = meta["layout"], meta["place"]
            count = len(layout[place])
            of_running, *of_finished = [{int(at): str(told) for at, told in found} for found in meta["diverged"]]
            running = Paused(int(meta["step"]), tensors["losses"], of_running, _by_class("state", tensors, count))
            finished = [
                Recovered(
                    tensors[f"{number}.images"],
                    tensors[f"{number}.losses"],
                    diverged,
                    _by_class(f"{number}.state", tensors, count),
                )
                for number, diverged in enumerate(of_finished)
            ]
        except Exception as exc:  # each library below raises errors of its own for bytes that are none of its files
            raise ValueError(f"it cannot be read ({type(exc).__name__})") from exc
        if [name for part in layout for name in part] != list(names):
            raise ValueError("it is of other classes")
        return Interim(layout, place, running, finished)

    def check(self, *, records: int, terms: int, images: int, size: int, at_once: int) -> None:
        """Check that it is of such an optimisation.

        Args:
            records: of the losses until its step.
            images: of each class in all.
            at_once: of them, optimised together.

        Raises:
            ValueError: if it is not.
        """
        count, before = len(self.layout[self.place]), len(self.finished) * at_once
        shape = (min(at_once, images - before), 3, size, size)
        fits = tuple(self.running.losses.shape) == (count, records, terms) and len(self.running.state) == count
        fits &= all(sorted(state) == sorted(STATE) for state in self.running.state)
        fits &= all(tuple(tensor.shape) == shape for state in self.running.state for tensor in state.values())
        fits &= all(tuple(part.images.shape) == (count, at_once, 3, size, size) for part in self.finished)
        if not fits:
            raise ValueError("it is of another optimisation")


def _of_classes(prefix: str, states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{prefix}.{at}.{name}": tensor for at, state in enumerate(states) for name, tensor in state.items()}


def _by_class(prefix: str, tensors: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    return [
        {name: tensors[f"{prefix}.{at}.{name}"] for name in STATE if f"{prefix}.{at}.{name}" in tensors}
        for at in range(count)
    ]
