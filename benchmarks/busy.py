"""Step: a whole run of a recipe with a temporary Ray, on an idle machine and with one busy process for each core.

With as many busy processes as cores, half of each core is left: a run that keeps every core busy takes twice as long.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.processes import cost
from benchmarks.recipes import config_of, scores
from benchmarks.steps import Record, Setting
from wmdd.config.distill import override, to_yaml
from wmdd.config.recipes import quick_options
from wmdd.cpus import free_cpus, usable_cpus
from wmdd.engine.run_names import located


def run(setting: Setting, record: Record, recipe: str, quick: bool = False) -> None:
    """Time the recipe from nothing, as a user starts it, and each stage: the sum over its tasks, on all workers.

    Args:
        quick: with ``--quick``.
    """
    cores = usable_cpus()
    record(recipe=recipe, cores=cores, cores_free_at_start=free_cpus(cores))
    chosen = config_of(setting, recipe)
    config = to_yaml(located(override(chosen, quick_options(chosen)) if quick else chosen))
    options = ("--executor", "local") if setting.toy else ()
    wall_s: dict[str, float] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for name, count in (("idle", 0), ("busy", cores)):
        with _busy(count):
            wall_s[name], metrics[name] = _whole_run(config, *options)
        record(ways=wall_s, ratio=round(wall_s[name] / wall_s["idle"], 2), metrics=metrics)
        whole = ", ".join(f"{seconds:.0f} s {way}" for way, seconds in wall_s.items())
        whole += f" ({count} busy processes)" if count else ""
        stages = [f"{way}: {_stages(of['seconds'])}" for way, of in metrics.items()]
        record(result="\n".join([f"{recipe}: {whole}", *stages, scores(metrics["idle"])]))


def _whole_run(config: str, *options: str) -> tuple[float, dict[str, Any]]:
    """Return the seconds of a run with a new store, and its metrics."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.yaml").write_text(config, encoding="utf-8")
        words = ("-m", "wmdd", "distill", "--config", "config.yaml", "--run", "run", *options)
        wall_s = cost(folder, *words, environment={}).wall_s
        return round(wall_s, 1), json.loads(Path(folder, "run", "metrics.json").read_text(encoding="utf-8"))


def _stages(seconds: dict[str, float]) -> str:
    return ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items() if value)


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep this number of processes busy inside the block."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
