"""What Ray Tune tells while it runs, as lines for people."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from ray import tune

from tuning.config import TuneConfig
from tuning.space import Domain
from wmdd.events import Event
from wmdd.pipeline import Listener
from wmdd.progress import clock

LISTENERS: list[Listener] = []  # beside the watcher, which Tune stores with the search


class Watcher(tune.Callback):  # type: ignore[misc]
    """Tells after each report of a trial how the search stands."""

    def __init__(self, options: TuneConfig, space: dict[str, Domain]) -> None:
        self._options, self._space = options, space
        self._begun = time.time()
        self._best: tuple[float, dict[str, Any]] = (-1.0, {})
        self._already: int | None = None

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note a score."""
        if result["level"] == len(self._options.levels) and result["score"] > self._best[0]:
            self._best = (result["score"], dict(trial.config))
        shown = ", ".join(f"{field} {_short(trial.config[field])}" for field in self._space)
        text = f"level {result['level']} of {len(self._options.levels)}, {shown}: top-1 {result['score']:.1%}"
        self._tell(trials, text + (f" ({result['failed']})" if result.get("failed") else ""))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note an end."""
        self._tell(trials, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a failure."""
        shown = ", ".join(f"{field} {_short(trial.config[field])}" for field in self._space)
        self._tell(trials, f"a trial failed, {shown}; the search goes on")

    def _tell(self, trials: list[Any], what: str) -> None:
        states = Counter(trial.status for trial in trials)
        ended = states["TERMINATED"] + states["ERROR"]
        self._already = ended if self._already is None else self._already
        levels = len(self._options.levels)
        stopped = sum(
            trial.status == "TERMINATED" and (trial.last_result or {}).get("level", levels) < levels for trial in trials
        )
        counts = f"{ended}/{self._options.samples} trials, {states['RUNNING']} running, {stopped} stopped early"
        counts += f", {states['ERROR']} failed" if states["ERROR"] else ""
        score, values = self._best
        best = ", ".join(f"{field} {_short(value)}" for field, value in values.items())
        text = f"{counts}, {self._left(ended)}" + (f"; best {score:.1%} at {best}" if values else "")
        metrics = {"trials": ended, "running": states["RUNNING"], "stopped": stopped}
        for listener in LISTENERS:
            if what:
                listener(Event("note", "tune", text=what))
            listener(Event("progress", "tune", "search", ended, self._options.samples, text, metrics))

    def _left(self, ended: int) -> str:
        fresh = ended - (self._already or 0)
        if fresh < 1:
            return "time left not known yet"
        return f"{clock((self._options.samples - ended) * (time.time() - self._begun) / fresh)} left"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
