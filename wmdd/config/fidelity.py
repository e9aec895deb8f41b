"""Cheaper forms of a run, for searches: fewer classes, fewer steps of recovery, shorter training of the students."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wmdd.config.distill import DistillConfig, override


@dataclass(frozen=True)
class Fidelity:
    """How much of a run is done; the whole when all shares are 1.

    Args:
        classes: share of the groups that recovery runs as one tensor batch, in (0, 1]; those of a smaller share are
            among those of a larger one, spread evenly over the classes.
        iterations: share of the steps of recovery; the learning rate is that of the whole optimisation, so more steps
            go on from fewer.
        epochs: share of the epochs of soft labels, and so of a student's.
    """

    classes: float = 1.0
    iterations: float = 1.0
    epochs: float = 1.0

    def __post_init__(self) -> None:
        if not all(0 < share <= 1 for share in (self.classes, self.iterations, self.epochs)):
            raise ValueError(f"{self}: shares are above 0, and 1 at most")

    def steps(self, config: DistillConfig) -> int:
        """Count the steps of recovery."""
        return math.ceil(config.recover.iterations * self.iterations)

    def groups(self, count: int) -> list[int]:
        """Choose the groups, ascending."""
        return sorted(sorted(range(count), key=_spread)[: math.ceil(count * self.classes)])

    def apply(self, config: DistillConfig) -> DistillConfig:
        """Shorten the students' training."""
        epochs = math.ceil(config.relabel.epochs * self.epochs)
        return override(config, {"relabel.epochs": epochs}) if epochs != config.relabel.epochs else config


WHOLE = Fidelity()


def _spread(number: int) -> float:
    """Van der Corput's sequence: any first part of its order is spread evenly."""
    return int(f"{number:b}"[::-1], 2) / 2.0 ** number.bit_length()
