"""The results of trials: a record of each, and the table of all."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tuning.config import TuneConfig

FINISHED = "finished"


@dataclass(frozen=True)
class Trial:
    """One setting and its scores.

    Args:
        values: by field.
        scores: mean top-1 on the search split, in [0, 1], by level, up to the last that was reached.
        spread: standard deviation of the last level's students.
        cost_s: seconds of work, including those that the store saved.
        stop: ``finished``, or the reason why not.
        begun: seconds since the epoch of its first score; infinite without one.
        levels: of the search.
    """

    values: dict[str, Any]
    scores: tuple[float, ...]
    spread: float
    cost_s: float
    stop: str
    begun: float
    levels: int

    @property
    def score(self) -> float:
        """The score at the highest level that it reached; 0 without any."""
        return self.scores[-1] if self.scores else 0.0

    @property
    def is_whole(self) -> bool:
        """Whether it reached the last level."""
        return self.stop == FINISHED and len(self.scores) == self.levels

    @staticmethod
    def of(values: dict[str, Any], result: Any, tune: TuneConfig) -> Trial:
        """Return the trial of one of Ray Tune's results; one without reports has nothing but `values`."""
        levels = len(tune.levels)
        frame = result.metrics_dataframe
        reports = [] if frame is None or "level" not in frame else frame.to_dict("records")
        by_level = {int(report["level"]): report for report in reports}  # a trial that goes on reports its levels again
        ascending = [by_level[level] for level in sorted(by_level)]
        last = ascending[-1] if ascending else {}
        failed = last.get("failed")
        if isinstance(failed, str) and failed:
            stop = failed
        elif result.error is not None:
            stop = f"failed: {_line(result.error)}"
        else:
            stop = FINISHED if len(ascending) == levels else f"stopped at level {len(ascending)}"
        return Trial(
            values=dict(values),
            scores=tuple(float(report["score"]) for report in ascending),
            spread=float(last.get("spread", 0.0)),
            cost_s=float(last.get("cost_s", 0.0)),
            stop=stop,
            begun=min((float(report["timestamp"]) for report in reports), default=math.inf),
            levels=levels,
        )


def table(trials: Sequence[Trial]) -> bytes:
    """Return ``trials.parquet``: one row per trial, in the order of their start."""
    rows = []
    for number, trial in enumerate(trials):
        scores = {
            f"score_{level + 1}": trial.scores[level] if level < len(trial.scores) else None
            for level in range(trial.levels)
        }
        rows.append(
            {"trial": number, **trial.values, "score": trial.score, "spread": trial.spread, "level": len(trial.scores)}
            | {"cost_s": trial.cost_s, "stop": trial.stop, **scores}
        )
    for field in trials[0].values if trials else ():
        if len({type(row[field]) for row in rows} - {type(None), int, float}) > 0:
            rows = [row | {field: str(row[field])} for row in rows]  # a column has one type
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no other beats in score at the same cost or less, the cheapest first."""
    front: list[Trial] = []
    for trial in sorted((item for item in trials if item.scores), key=lambda item: (item.cost_s, -item.score)):
        if not front or trial.score > front[-1].score:
            front.append(trial)
    return front


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
