"""The steps in the order of their worth, and what they share. Free of torch, which the starting process needs not."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

HERE = "benchmarks.gpu"
NO_GPU = 2  # exit status of the first step where torch sees no GPU


class Tell(Protocol):
    """Writes figures down at once; later ones of the same name replace earlier ones."""

    def __call__(self, **figures: Any) -> None:
        """Tell figures; ``result`` is what the table shows, in a line or some."""


@dataclass(frozen=True)
class Setting:
    """What the steps run on.

    Args:
        toy: on the CPU, at a size that takes seconds.
        data: CIFAR-10, or None.
        tiny: Tiny-ImageNet, or None.
        work: folder of stores and logs.
        out: folder of results.
    """

    toy: bool
    data: str | None
    tiny: str | None
    work: str
    out: str


@dataclass(frozen=True)
class Step:
    """A step.

    Args:
        name: as ``--steps`` takes it.
        function: ``module:function``, called with the setting, a `Tell` and the arguments.
        limit_s: seconds at most, of those that are left.
        needs: names of the setting's folders that must be given; a toy brings its own.
        beside: runs while the next step does, which must not be one that is timed.
    """

    name: str
    function: str
    limit_s: float
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    beside: bool = False

    def load(self) -> Callable[..., None]:
        """Import the function."""
        module, name = self.function.split(":")
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        return function

    def skip(self, setting: Setting) -> str:
        """Say what is missing; "" if nothing is."""
        absent = [] if setting.toy else [need for need in self.needs if getattr(setting, need) is None]
        return f"give --{absent[0]}" if absent else ""


def _recipe(name: str, needs: str, recipe: str, ipc: int, method: str = "wmdd") -> Step:
    arguments = {"recipe_name": recipe, "ipc": ipc, "method": method}
    return Step(name, f"{HERE}.cells:run", math.inf, arguments, (needs,))


_METHODS = ("random", "herding", "sre2l", "cda")
STEPS = {
    step.name: step
    for step in (
        Step("machine", f"{HERE}.machine:run", 60),
        Step("compilation", f"{HERE}.recovery:warm", 150, {"sizes": [224, 64, 32]}, beside=True),
        Step("tests", f"{HERE}.checks:run", 150),
        Step("recovery-224", f"{HERE}.recovery:run", 80, {"size": 224, "more": 200}),
        Step("recovery-64", f"{HERE}.recovery:run", 60, {"size": 64, "more": 400}),
        Step("recovery-32", f"{HERE}.recovery:run", 60, {"size": 32, "more": 1000}),
        Step("throughput-224", f"{HERE}.throughput:run", 45, {"size": 224}),
        Step("throughput-32", f"{HERE}.throughput:run", 45, {"size": 32}),
        _recipe("cifar10", "data", "cifar10", 10),
        _recipe("cifar10-50", "data", "cifar10", 50),
        _recipe("cifar10-1", "data", "cifar10", 1),
        *(_recipe(f"cifar10-{method}", "data", "cifar10", 10, method) for method in _METHODS),
        _recipe("tiny", "tiny", "tiny-imagenet", 10),
    )
}
