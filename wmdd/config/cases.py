"""What a comparison compares: methods, each at a number of images per class, in a regime of labels, for some epochs."""

from __future__ import annotations

from typing import Any, NamedTuple

from wmdd.config.distill import DistillConfig

REGIMES = {"views": "soft", "fixed": "fixed", "hard": "hard"}  # values of evaluate.labels


class Case(NamedTuple):
    """One run of a comparison.

    Args:
        regime: a key of `REGIMES`; None for the configuration's labels.
        epochs: of labels, and so of students; None for the configuration's.
    """

    method: str
    ipc: int
    regime: str | None = None
    epochs: int | None = None

    @property
    def folder(self) -> str:
        """The name of its run folder."""
        epochs = f"epochs-{self.epochs}" if self.epochs else ""
        return "-".join(filter(None, (f"{self.method}-ipc-{self.ipc}", self.regime, epochs)))

    @property
    def text(self) -> str:
        """The case in words."""
        epochs = f"{self.epochs} epochs" if self.epochs else ""
        return " ".join(filter(None, (f"{self.method} at {self.ipc}", self.regime, epochs)))

    def options(self, config: DistillConfig) -> dict[str, Any]:
        """Return the options that its regime and epochs set; random changes of views are the same in every regime."""
        options: dict[str, Any] = {"ipc": self.ipc}
        if self.epochs is not None:
            options["relabel.epochs"] = self.epochs
        if self.regime is None:
            return options
        labels = REGIMES[self.regime]
        augment = config.relabel.augment if config.evaluate.labels == "soft" else config.evaluate.augment
        options["evaluate.labels"] = labels
        options["relabel.augment"] = augment if labels == "soft" else "none"
        options["evaluate.augment"] = "none" if labels == "soft" else augment
        return options | ({"relabel.teachers": ()} if labels == "hard" else {})
