"""Dataset distillation with the Wasserstein metric: a few synthetic images per class that train almost as well."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wmdd.cpus import wait_passively

if TYPE_CHECKING:
    from wmdd.api import RunResult, distill, rewrite
    from wmdd.config import DistillConfig, override
    from wmdd.distilled import DistilledImages, load_distilled
    from wmdd.recipes import recipe

__all__ = [
    "DistillConfig",
    "DistilledImages",
    "RunResult",
    "distill",
    "load_distilled",
    "override",
    "recipe",
    "rewrite",
]

_HOMES = {
    "wmdd.api": ("RunResult", "distill", "rewrite"),
    "wmdd.config": ("DistillConfig", "override"),
    "wmdd.distilled": ("DistilledImages", "load_distilled"),
    "wmdd.recipes": ("recipe",),
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command's help should not wait seconds for torch."""
    for home, names in _HOMES.items():
        if name in names:
            if home == "wmdd.api":  # it is about to compute; a result can be loaded without
                wait_passively()
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'wmdd' has no attribute {name!r}")
