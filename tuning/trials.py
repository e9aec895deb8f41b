"""What came of the trials: one record each, and the table of all."""

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
    """One setting and how it did.

    Args:
        values: by field.
        scores: mean top-1 on the search split, in [0, 1], by level, as far as it came.
        spread: standard deviation of the last level's students.
        cost_s: seconds of work, those that the store spared included.
        stop: ``finished``, or why not.
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
        """Read one of Ray Tune's results; a trial that told nothing has none of it but `values`."""
        levels, frame = len(tune.levels), result.metrics_dataframe
        reports = [] if frame is None or "level" not in frame else frame.to_dict("records")
        by_level = {int(report["level"]): report for report in reports}  # a continued trial says its levels again
        found = [by_level[level] for level in sorted(by_level)]
        last = found[-1] if found else {}
        failed = last.get("failed")
        if isinstance(failed, str) and failed:
            stop = failed
        elif result.error is not None:
            stop = f"failed: {_line(result.error)}"
        else:
            stop = FINISHED if len(found) == levels else f"stopped at level {len(found)}"
        return Trial(
            values=dict(values),
            scores=tuple(float(report["score"]) for report in found),
            spread=float(last.get("spread", 0.0)),
            cost_s=float(last.get("cost_s", 0.0)),
            stop=stop,
            begun=min((float(report["timestamp"]) for report in reports), default=math.inf),
            levels=levels,
        )


def table(trials: Sequence[Trial]) -> bytes:
    """Write ``trials.parquet``: one row per trial, in the order of their start."""
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
    """Give the trials that no other one beats in score at the same cost or less, the cheapest first."""
    front: list[Trial] = []
    for trial in sorted((item for item in trials if item.scores), key=lambda item: (item.cost_s, -item.score)):
        if not front or trial.score > front[-1].score:
            front.append(trial)
    return front


def noise(winner: Trial, others: Sequence[Trial], students: int) -> dict[str, float]:
    """Compare the winner's lead over the best of the others with what students' seeds alone do.

    Returns:
        ``lead`` and ``error`` (the standard error of that difference), in top-1; infinite lead without others.
    """
    second = max(
        (trial for trial in others if trial is not winner and trial.is_whole), key=lambda t: t.score, default=None
    )
    if second is None:
        return {"lead": math.inf, "error": winner.spread / math.sqrt(students)}
    error = math.sqrt((winner.spread**2 + second.spread**2) / students)
    return {"lead": winner.score - second.score, "error": error}


def spoken_lead(lead: float, error: float) -> str:
    """Return a sentence about the winner's lead on held-out training images, from what `noise` found."""
    if math.isinf(lead):
        return "no other setting reached the last level, so nothing is known about its lead"
    if lead < 2 * error:
        return (
            f"its lead over the next setting, {100 * lead:.1f} points, is within the noise of the students' seeds "
            f"(standard error {100 * error:.1f}): settings close to it do as well"
        )
    return f"it leads the next setting by {100 * lead:.1f} points (standard error {100 * error:.1f})"


def spoken_final(winner: dict[str, Any], own: dict[str, Any], students: int) -> str:
    """Return a sentence about the winner and the recipe's own setting on the validation images.

    Args:
        winner, own: scores of a student, as in a run's ``metrics.json``.
        students: whose mean these are.
    """
    lead = winner["top1_last_mean"] - own["top1_last_mean"]
    spreads = [scores["top1_last_std"] for scores in (winner, own)]
    error = None if None in spreads else math.sqrt(sum(spread**2 for spread in spreads) / students)
    verb, remedy = ("leads", "") if lead > 0 else ("does not beat", "; the recipe's own setting is as good or better")
    told = f"the winner {verb} the recipe's own setting there ({100 * lead:+.1f} points"
    if error is None:
        return f"{told}, of one student each, which says little about the noise){remedy}"
    within = "within" if abs(lead) < 2 * error else "beyond"
    return f"{told}, standard error {100 * error:.1f}: {within} the noise of the students' seeds){remedy}"


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
