"""The steps, most important first, and what they share. The process that starts them does not import torch."""

from __future__ import annotations

import math
import pkgutil
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

HERE = "benchmarks"
On = Literal["gpu", "cpu"]


def card_slug(name: str) -> str:
    """Return a card's name for file names: lower case, with dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def output_of(*command: str) -> str:
    """Return what a program prints; "" if it is not there, or takes long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


# Writes figures by name to the file of the step at once; a later value of a name replaces the earlier one. ``result``
# is what the table shows, in one or more lines, the first of which matters most; ``refused`` says why nothing can be
# measured on this machine, or with these data.
Record = Callable[..., None]


@dataclass(frozen=True)
class Setting:
    """What the steps run on.

    Args:
        toy: on the CPU, at a size that takes seconds.
        data: URL of CIFAR-10, or None.
        tiny: URL of Tiny-ImageNet, or None.
        work: folder of stores.
        out: folder of results.
        is_temporary: whether `out` is removed at the end.
        on: the device that is measured, unless `toy`.
    """

    toy: bool
    data: str | None
    tiny: str | None
    work: str
    out: str
    is_temporary: bool = False
    on: On = "gpu"

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Value of ``runtime.device``."""
        return "cuda" if self.on == "gpu" and not self.toy else "cpu"


@dataclass(frozen=True)
class Step:
    """A step.

    Args:
        name: as ``--steps`` takes it.
        function: ``module:function``, called with the setting, a `Record` and the arguments.
        limit_s: seconds at most, of those that are left.
        needs: names of the setting's images that must be given; a rehearsal has its own.
        beside: name of the step, not one that is timed, beside which this one runs if that is the next.
        full: whether it belongs to the full form alone.
    """

    name: str
    function: str
    limit_s: float
    arguments: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    beside: str = ""
    full: bool = False

    def load(self) -> Callable[..., None]:
        """Import the function."""
        function: Callable[..., None] = pkgutil.resolve_name(self.function)
        return function

    def skip(self, setting: Setting) -> str:
        """Return what is missing; "" if nothing is."""
        absent = [] if setting.toy else [need for need in self.needs if getattr(setting, need) is None]
        return f"give --{absent[0]}" if absent else ""


def _recipe(name: str, needs: str, recipe: str, ipc: int, **others: Any) -> Step:
    return Step(name, f"{HERE}.recipes:run", math.inf, {"recipe_name": recipe, "ipc": ipc, **others}, (needs,))


def _cell(name: str, ipc: int, protocol: str | None = None, **options: Any) -> Step:
    return _recipe(f"cell-{ipc}-{name}", "data", "cifar10", ipc, protocol=protocol, options=_CELL | options)


# Cells of accuracy have a teacher of a third of the recipe's epochs, and one student of each of three sets: on an H200
# the teacher takes 110 s, and a student of 5,000 steps 55 by AdamW (by Muon not measured).
_CELL = {"pretrain.epochs": 20, "evaluate.num_students": 1, "evaluate.baselines": ("random", "easiest")}
_NO_FEATURES = {"recover.feature_weight": 0.0}
_METHODS = ("random", "herding", "sre2l", "cda", "wmdd-paper-loss")
_GPU = (
    Step("machine", f"{HERE}.machine:run", 90),
    Step("compilation", f"{HERE}.compilation:warm", 170, {"sizes": [224, 32, 64]}, beside="tests"),
    Step("tests", f"{HERE}.checks:run", 200),
    Step("recovery-224", f"{HERE}.recovery:run", 80, {"size": 224, "more": 200}),
    Step("recovery-32", f"{HERE}.recovery:run", 60, {"size": 32, "more": 1000}),
    Step("students", f"{HERE}.students:run", 80, {"model": "resnet18", "batch_size": 50, "epochs": 40}),
    _recipe("cifar10", "data", "cifar10", 10),
    Step("teacher", f"{HERE}.teacher_accuracy:run", 120, {"recipe_name": "cifar10", "epochs": 5}, ("data",)),
    Step("throughput-224", f"{HERE}.throughput:run", 45, {"size": 224}),
    Step("throughput-32", f"{HERE}.throughput:run", 45, {"size": 32}),
    Step("recovery-64", f"{HERE}.recovery:run", 60, {"size": 64, "more": 400}),
    _cell("recipe", 10),
    _cell("adamw", 10, **{"evaluate.optimizer": "adamw", "evaluate.lr": 1e-3}),
    _cell("edc", 10, "edc"),
    _cell("running-labels", 10, **{"relabel.bn_mode": "running"}),
    _cell("recipe", 1),
    _cell("whole", 1, **{"recover.tiles": 1}),
    _cell("edc", 1, "edc"),
    _cell("edc-whole", 1, "edc", **{"recover.tiles": 1}),
    _cell("no-features", 10, **_NO_FEATURES),
    _cell("no-features", 1, **_NO_FEATURES),
    _cell("fifth-of-the-epochs", 50, **{"relabel.epochs": 200, "evaluate.val_every": 50}),
    _cell("edc", 50, "edc"),
    _recipe("cifar10-50", "data", "cifar10", 50),
    _recipe("cifar10-1", "data", "cifar10", 1),
    *(_recipe(f"cifar10-{method}", "data", "cifar10", 10, method=method) for method in _METHODS),
    _recipe("tiny", "tiny", "tiny-imagenet", 10),
    _recipe("tiny-edc", "tiny", "tiny-imagenet", 10, protocol="edc"),
    _recipe("tiny-50", "tiny", "tiny-imagenet", 50),
)
_STANDARD_STUDENT = {"model": "resnet18", "batch_size": 50, "epochs": 25, "stem": "standard"}
_STEMS = [("resnet18", "standard"), ("resnet18", "small")]
_CPU = (
    Step("machine", f"{HERE}.machine:run", 30),
    Step("recovery", f"{HERE}.recovery:run", 60, {"size": 32, "more": 200, "stem": "standard"}),
    Step("planning", f"{HERE}.planning:run", 60, {"units": 100_000}),
    Step("relabelling", f"{HERE}.relabelling:run", 60, {"size": 32, "stem": "standard", "epochs": 50}),
    Step("statistics", f"{HERE}.class_statistics:run", 60, {"size": 32, "stem": "standard", "each": 300}),
    Step("teacher", f"{HERE}.teacher:run", 90, {"size": 32, "stem": "standard", "each": 300}),
    Step("students", f"{HERE}.students:run", 60, {"model": "convnet3_w64", "batch_size": 20, "epochs": 10}),
    Step("students-resnet18", f"{HERE}.students:run", 60, {"model": "resnet18", "batch_size": 50, "epochs": 1}),
    Step("students-standard", f"{HERE}.students:run", 60, _STANDARD_STUDENT),
    Step("labels", f"{HERE}.labels:run", 30),
    Step("barycenters", f"{HERE}.barycenters:run", 60),
    Step("precision", f"{HERE}.precision:run", 90),
    Step("compilation", f"{HERE}.compilation:run", 150, {"size": 32, "networks": [("convnet3_w64", "auto")]}),
    Step("startup", f"{HERE}.startup:run", 60),
    Step("memory", f"{HERE}.memory:run", 60),
    Step("overhead", f"{HERE}.overhead:run", 120, {"units": 200}),
    Step("digits", f"{HERE}.busy:run", 150, {"recipe": "digits"}),
    Step("compilation-resnet18", f"{HERE}.compilation:run", 300, {"size": 32, "networks": _STEMS}, full=True),
    Step("cifar10-quick", f"{HERE}.busy:run", 2700, {"recipe": "cifar10-quick", "quick": True}, ("data",), full=True),
)
STEPS: dict[On, dict[str, Step]] = {
    "gpu": {step.name: step for step in _GPU},
    "cpu": {step.name: step for step in _CPU},
}


def form(on: On, full: bool) -> list[str]:
    """Return the names of the steps of the quick or the full form."""
    return [name for name, step in STEPS[on].items() if full or not step.full]
