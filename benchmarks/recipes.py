"""Step: whole recipes from images to scores, with the time of each stage. What an earlier call finished is found."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.steps import Record, Setting, card_slug
from wmdd.commands.distill import distill
from wmdd.config.distill import DistillConfig, override
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_method, with_protocol
from wmdd.engine.events import Event
from wmdd.engine.run import LocalExecutor, versions
from wmdd.engine.run_names import digest
from wmdd.report.scores import protocols_of_run, score_rows
from wmdd.runtime import Runtime

TOY: dict[str, Any] = {
    "data.path": "builtin:digits",
    "data.image_size": 16,
    "data.per_class": 10,
    "pretrain.model": "convnet1_w8",
    "pretrain.epochs": 1,
    "recover.iterations": 2,
    "recover.roll_px": 1,
    "relabel.epochs": 2,
    "evaluate.students": ("convnet1_w8",),
    "evaluate.num_students": 1,
    "runtime.device": "cpu",
    "runtime.train_threads": 1,
}


def run(
    setting: Setting,
    record: Record,
    recipe_name: str,
    ipc: int,
    method: str = "wmdd",
    protocol: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Run a recipe in this process; write each stage's seconds and each student's score at once.

    Args:
        options: changes of the recipe, by dotted name.
    """
    config = config_of(setting, recipe_name, ipc, method, protocol, options)
    # Keys of the store name neither card nor torch: what one of them made must not stand among the figures of another.
    card = "toy" if setting.toy else card_slug(str(Runtime.create(config.runtime).describe()["device"]))
    record(options=dict(options or {}))
    name = f"{method}-ipc-{ipc}-{digest(config)}"
    folder = Path(setting.work) / f"{card}-torch-{versions()['torch']}" / recipe_name / name
    watch = _Watch(record)
    begun = time.perf_counter()
    result = distill(config, run=str(folder), executor=LocalExecutor(config.runtime), listener=watch)
    wall_s = time.perf_counter() - begun
    if method == "wmdd" and not options and not protocol:
        shutil.copy(folder / "images.png", Path(setting.out) / f"{setting.on}-{card}-{recipe_name}-{ipc}.png")
    record(metrics=result.metrics, wall_s=round(wall_s, 1))
    record(result=f"{scores(result.metrics)}\n{watch.stages()}")


def scores(metrics: dict[str, Any]) -> str:
    """Return every score of a run (last epoch, mean and sample standard deviation over the students), by protocol."""
    rows = " | ".join(f"{row.name.replace(',', ' of')} {row.last}" for row in score_rows(metrics))
    return f"{rows}; {protocols_of_run(metrics)}"


def config_of(
    setting: Setting,
    recipe_name: str,
    ipc: int | None = None,
    method: str = "wmdd",
    protocol: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> DistillConfig:
    """Return a recipe on the images that the setting names, unless it names some itself; in a rehearsal at toy size."""
    config = recipe(recipe_name)
    data = config.data.path or (setting.tiny if recipe_name.startswith("tiny") else setting.data)
    ipc = ipc or config.ipc
    ipc = min(ipc, 2) if setting.toy else ipc
    config = with_method(override(config, {"data.path": data, "ipc": ipc}), method)
    config = override(with_protocol(config, protocol) if protocol else config, dict(options or {}))
    return override(config, TOY if setting.toy else {"runtime.device": setting.device})


class _Watch:
    """Listens to a run: seconds of each stage's units, and the last score of each student."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._seconds = Counter[str]()
        self._units = Counter[str]()
        self._found: dict[str, int] = {}
        self._top1: dict[str, float] = {}
        self._latest = ""

    def __call__(self, event: Event) -> None:
        """Record an event, and write the figures."""
        if event.kind == "unit":
            # No seconds of a unit that another process saved meanwhile.
            self._seconds[event.stage] += event.metrics.get("seconds", 0.0)
            self._units[event.stage] += 1
        elif event.kind == "stage" and event.done:
            self._found[event.stage] = event.done
        elif event.kind == "progress" and "top1" in event.metrics:
            self._top1[event.unit] = round(event.metrics["top1"], 4)
        elif event.kind != "progress":
            return
        self._latest = f"{event.stage} of {event.unit}: {event.text}" if event.kind == "progress" else ""
        seconds = {stage: round(value, 2) for stage, value in self._seconds.items()}
        lines = "\n".join(filter(None, (self.stages(), self._latest)))
        self._record(stage_s=seconds, units=self._units, units_found=self._found, top1=self._top1, result=lines)

    def stages(self) -> str:
        """Return the seconds of each stage that ran, and how many units were in the store."""
        ran = ", ".join(f"{stage} {value:.1f} s" for stage, value in self._seconds.items())
        found = ", ".join(f"{count} of {stage}" for stage, count in self._found.items())
        return "; ".join(filter(None, (ran, found and f"found in the store: {found}")))
