"""What makes the images: the method, its variants, and the methods that it is compared with, over one recipe.

A method changes a few options of a recipe and leaves everything else as it is (teacher, steps, learning rate, views,
labels, students), so that two methods over one recipe differ in nothing but themselves.
"""

from __future__ import annotations

import typing
from typing import Any

from wmdd.config.base import SMALL_BELOW_PX, Method
from wmdd.config.distill import DistillConfig, override
from wmdd.errors import ConfigError
from wmdd.text import unknown

_CLASSIFY: dict[str, Any] = {
    "recover.init": "noise",
    "recover.feature_weight": 0.0,
    "recover.ce_weight": 1.0,
    "recover.bn_target": "global",
    "recover.bn_weight": 1.0,  # 0.01 for large images
    "recover.bn_weight_scale": "absolute",
    "recover.first_bn_multiplier": 10.0,
    "recover.classes_per_batch": 0,
}

_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "wmdd": ("barycenter features and per-class batch-norm statistics, with a cross-entropy term as released", {}),
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
    "random": ("random real images, one draw for each student's seed", {}),
}
SELECTING = frozenset({"herding", "random"})


def with_method(config: DistillConfig, name: str) -> DistillConfig:
    """Return a recipe under another method; raise a `ConfigError` that lists the methods for an unknown name."""
    if name not in _METHODS:
        raise ConfigError(unknown("method", name, _METHODS))
    changes = dict(_METHODS[name][1])
    # SRe2L's weights: 0.01 for ImageNet-1K, 1 for Tiny-ImageNet. Its 0.01 for CIFAR did worse in our few steps.
    small = config.data.image_size < SMALL_BELOW_PX or config.recipe.startswith("tiny-imagenet")
    if "recover.bn_weight" in changes and not small:
        changes["recover.bn_weight"] = 0.01
    return override(config, {"method": name, **changes})


def own_options(name: str) -> set[str]:
    """Return the names of the options that a method sets, whatever the recipe says."""
    return set(_METHODS[name][1])


def methods() -> dict[str, str]:
    """List the names of all methods, each with one line about it."""
    return {name: about for name, (about, _) in _METHODS.items()}


assert set(_METHODS) == set(typing.get_args(Method))
