"""What makes the images: the method, its variants, and the methods that it is compared with, over one recipe.

A method changes a few options of a recipe and leaves everything else as it is (teacher, steps, learning rate, views,
labels, students), so that two methods over one recipe differ in nothing but themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

_CLASSIFY: dict[str, Any] = {
    "recover.init": "noise",
    "recover.feature_weight": 0.0,
    "recover.ce_weight": 1.0,
    "recover.bn_target": "global",
    "recover.tiles": 1,
    "recover.bn_weight": 1.0,  # 0.01 for large images
    "recover.bn_weight_scale": "absolute",
    "recover.first_bn_multiplier": 10.0,
    "recover.classes_per_batch": 0,
}

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "wmdd": ("barycenter features (unless a recipe sets their weight to 0), class statistics, cross-entropy", {}),
    "wmdd-paper-loss": (
        "the loss as the paper writes it: squared distances, no cross-entropy (Liu et al., 2025)",
        {"recover.feature_loss": "squared", "recover.feature_weight": 1.0, "recover.ce_weight": 0.0},
    ),
    "sre2l": ("cross-entropy and the teacher's own batch-norm statistics, from noise (Yin et al., 2023)", _CLASSIFY),
    "cda": (
        "SRe2L with views that shrink from whole images (Yin & Shen, 2023)",
        {**_CLASSIFY, "recover.curriculum": "cosine", "recover.curriculum_share": 1.0},
    ),
    "herding": ("real images whose features keep the class's mean, one by one (Welling, 2009)", {}),
    "nearest": ("real images nearest to the atoms of the class's barycenter, with the atoms' mass", {}),
    "easiest": ("real images of the lowest cross-entropy of the teacher", {}),
    "random": ("random real images, one draw for each student's seed", {}),
}
if TYPE_CHECKING:  # a type checker does not know the names in a table
    Method = str
else:
    Method = Literal[tuple(METHODS)]
# Methods that select real images, and the stages whose results they use; each may be a baseline of another method.
SELECTING: dict[str, tuple[str, ...]] = {
    "random": (),
    "nearest": ("statistics", "barycenter"),
    "easiest": ("statistics",),
    "herding": ("statistics",),
}
if TYPE_CHECKING:
    Baseline = str
else:
    Baseline = Literal[tuple(SELECTING)]


def selections(method: str, baselines: Iterable[str]) -> list[str]:
    """Return the selections of real images that a run has: its method, if it selects, and its baselines."""
    return [name for name in dict.fromkeys((method, *baselines)) if name in SELECTING]


def made_set(method: str) -> str:
    """Return the name of the set of images that a method makes or selects; it is part of keys."""
    if method == "random":
        return "random-0"  # the draw of the first student
    # Herding has always had the name of what is distilled.
    return method if method in ("nearest", "easiest") else "distilled"


def uses(stage: str, method: str, baselines: Iterable[str]) -> bool:
    """Whether images of a run, or its baselines, are made from the results of a stage, such as ``barycenter``."""
    return method not in SELECTING or any(stage in SELECTING[name] for name in selections(method, baselines))


def own_options(name: str) -> set[str]:
    """Return the names of the options that a method sets, whatever the recipe says."""
    return set(METHODS[name][1])


def methods() -> dict[str, str]:
    """List the names of all methods, each with one line about it."""
    return {name: about for name, (about, _) in METHODS.items()}
