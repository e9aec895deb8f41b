"""Dataset distillation with the Wasserstein metric: a few synthetic images per class that train almost as well."""

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
