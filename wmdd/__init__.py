"""Dataset distillation with the Wasserstein metric: a few synthetic images per class that train almost as well.

    from wmdd import distill, load_distilled, override, recipe

    config = override(recipe("digits"), {"ipc": 2})   # "wmdd recipes" lists the recipes
    distill(config, run="runs/two-each")                         # started again, it goes on where it was
    images = load_distilled("runs/two-each")                     # a torch Dataset

- recipe: the configuration of a named data set.
- override: a copy of a configuration with options changed; "wmdd distill digits --help-all" lists them.
- DistillConfig: the configuration itself; its sections are attributes.
- plan: what distill would compute of it; returns a PlannedRun, whose cost holds an estimate of hours and bytes.
- distill: run a configuration and write its run folder; returns a RunResult, whose metrics hold the scores.
- load_distilled: read a run folder's images as DistilledImages.
- rewrite: write a run folder's report and files again, from its store.

Bad input raises ConfigError or DataError of wmdd.errors, with one line, before anything runs. The command "wmdd" does
the same from a terminal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wmdd.cpus import set_environment

if TYPE_CHECKING:
    from wmdd.commands.distill import RunResult, distill, rewrite
    from wmdd.commands.plan import PlannedRun, plan
    from wmdd.config.distill import DistillConfig, override
    from wmdd.config.recipes import recipe
    from wmdd.distilled import DistilledImages, load_distilled

__all__ = [
    "DistillConfig",
    "DistilledImages",
    "PlannedRun",
    "RunResult",
    "distill",
    "load_distilled",
    "override",
    "plan",
    "recipe",
    "rewrite",
]

_HOMES = {
    "wmdd.commands.distill": ("RunResult", "distill", "rewrite"),
    "wmdd.commands.plan": ("PlannedRun", "plan"),
    "wmdd.config.distill": ("DistillConfig", "override"),
    "wmdd.distilled": ("DistilledImages", "load_distilled"),
    "wmdd.config.recipes": ("recipe",),
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command's help should not wait seconds for torch."""
    for home, names in _HOMES.items():
        if name in names:
            if home == "wmdd.commands.distill":  # it is about to compute; a result can be loaded without
                set_environment()
            return getattr(import_module(home), name)
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'wmdd' has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("wmdd")
    except PackageNotFoundError as exc:  # a checkout that is not installed
        raise AttributeError("module 'wmdd' has no version: it is not installed") from exc


def __dir__() -> list[str]:
    """List the public names, which are imported on first use, and the names that every module has."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
