"""What happens in Ray Tune while it runs, as events of a stage ``tune`` whose units are trials."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray import tune

from tuning.config import TuneConfig
from tuning.trials import short
from wmdd.engine.events import Event, Listener

STAGE = "tune"
# Not in the watcher, which Tune stores with the search.
LISTENERS: list[Listener] = []
OPEN: set[str] = set()  # trials of this session that have begun and not ended
ENDED: set[str] = set()  # trials that have ended, in this session or before


class Watcher(tune.Callback):  # type: ignore[misc]
    """Reports each trial, and the state of the search."""

    def __init__(self, options: TuneConfig) -> None:
        self._samples, self._levels = options.samples, len(options.levels)
        self._best: tuple[float, dict[str, Any]] = (-1.0, {})

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report that a trial begins, or begins again after a failure."""
        if not OPEN and not ENDED:  # the first of this session
            ENDED.update(other.trial_id for other in trials if other.status == "TERMINATED")
            _report(Event("stage", STAGE, done=len(ENDED), total=self._samples))
        OPEN.add(trial.trial_id)
        _report(Event("begin", STAGE, trial.trial_id, total=1))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Report a score."""
        level, score = int(result["level"]), float(result["score"])
        if level == self._levels and score > self._best[0]:
            self._best = (score, dict(trial.config))
        reason = f" ({result['failed']})" if result.get("failed") else ""
        metrics = {"level": level, "score": score, "cost_s": result["cost_s"], **trial.config}
        text = f"level {level} of {self._levels}, {describe(trial.config)}: top-1 {score:.1%}{reason}"
        _report(Event("note", STAGE, trial.trial_id, text=text, metrics=metrics))
        _report(Event("progress", STAGE, trial.trial_id, level, self._levels, self._state(trials)))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report that a trial has ended, by itself or because others do better."""
        _end(trial, Event("done", STAGE, trial.trial_id))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report that a trial is tried again."""
        text = f"a trial's worker failed, {describe(trial.config)}; once more"
        _report(Event("retry", STAGE, trial.trial_id, text=text))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report that a trial failed too often to be tried again."""
        text = f"a trial failed, {describe(trial.config)}; the search goes on"
        _end(trial, Event("failed", STAGE, trial.trial_id, text=text))

    def _state(self, trials: list[Any]) -> str:
        ended = Counter((trial.last_result or {}).get("level") for trial in trials if trial.status == "TERMINATED")
        words = [f"{sum(ended.values()) - ended[self._levels]} stopped early"]
        score, values = self._best
        return ", ".join([*words, f"best {score:.1%} at {describe(values)}"] if values else words)


def _end(trial: Any, event: Event) -> None:
    OPEN.discard(trial.trial_id)
    ENDED.add(trial.trial_id)
    _report(event)
    _report(Event("unit", STAGE, trial.trial_id))


def _report(event: Event) -> None:
    for listener in LISTENERS:
        listener(event)


def describe(values: dict[str, Any]) -> str:
    """Return a setting as text."""
    return ", ".join(f"{field} {short(value)}" for field, value in values.items())
