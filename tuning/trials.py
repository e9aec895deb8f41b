"""The results of a search: a record of each trial, the table of all, and the winner with its lead."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_jobs.workers import last_line
from tuning.config import TuneConfig
from wmdd.config.distill import DistillConfig
from wmdd.errors import WmddError
from wmdd.report.scores import ScoreRow, protocol_line, protocol_of, score_rows

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
        is_open: its worker failed too often; a search that goes on tries it again.
    """

    values: dict[str, Any]
    scores: tuple[float, ...]
    spread: float
    cost_s: float
    stop: str
    begun: float
    levels: int
    is_open: bool = False

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
            stop = f"failed: {last_line(result.error)[:300]}"
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
            is_open=result.error is not None,
        )


def table(trials: Sequence[Trial]) -> bytes:
    """Return ``trials.parquet``: one row per trial, in the order of their start."""
    rows = []
    for number, trial in enumerate(trials):
        row = {"trial": number, **trial.values, "score": trial.score, "spread": trial.spread}
        row |= {"level": len(trial.scores), "cost_s": trial.cost_s, "stop": trial.stop}
        levels = itertools.zip_longest(range(1, trial.levels + 1), trial.scores)
        rows.append(row | {f"score_{level}": score for level, score in levels})
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


@dataclass(frozen=True)
class Outcome:
    """A finished search.

    Args:
        trials: in the order of their start.
        best: the configuration of the winner, for all data.
        final: the metrics of runs over all data, by name: ``winner`` and ``recipe``.
        students: whose mean is a trial's score.
    """

    url: str
    trials: list[Trial]
    winner: Trial
    best: DistillConfig
    final: dict[str, dict[str, Any]]
    students: int

    @property
    def protocol(self) -> str:
        """Name and hash of what the students' scores can be compared with."""
        return protocol_line({name: protocol_of(self.best, name) for name in self.best.evaluate.students})

    @property
    def lead(self) -> str:
        """Whether the winner's lead over the other trials is more than noise."""
        return describe_lead(**noise(self.winner, self.trials, self.students))

    def final_leads(self) -> dict[str, str]:
        """Return, for each student, how the winner does on the validation images against the recipe's own setting."""
        if len(self.final) < 2:
            return {}
        winner, recipe = (self.final[name]["students"] for name in ("winner", "recipe"))
        seeds = self.best.evaluate.num_students
        return {name: describe_final(winner[name]["distilled"], recipe[name]["distilled"], seeds) for name in winner}

    def final_rows(self) -> dict[str, list[ScoreRow]]:
        """Return the scores of the distilled images on the validation images."""
        titles = {"winner": "winner", "recipe": "recipe's own setting"}
        return {
            titles[name]: [row for row in score_rows(metrics) if row.name.startswith("distilled")]
            for name, metrics in self.final.items()
        }


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the best score at the last level.

    Raises:
        WmddError: if none reached it; names the causes.
    """
    whole = [trial for trial in trials if trial.is_whole]
    if not whole:
        causes = sorted({trial.stop for trial in trials})
        raise WmddError(f"no trial reached the last level: {'; '.join(causes[:3])}")
    return max(whole, key=lambda trial: trial.score)


def noise(winner: Trial, others: Sequence[Trial], students: int) -> dict[str, float]:
    """Return the winner's lead over the best of the others, and what students' seeds alone cause.

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


def describe_lead(lead: float, error: float) -> str:
    """Return a sentence about the winner's lead on held-out training images, from what `noise` found."""
    if math.isinf(lead):
        return "no other setting reached the last level, so nothing is known about its lead"
    if lead < 2 * error:
        return (
            f"its lead over the next setting, {100 * lead:.1f} points, is within the noise of the students' seeds "
            f"(standard error {100 * error:.1f}): settings close to it do as well"
        )
    return f"it leads the next setting by {100 * lead:.1f} points (standard error {100 * error:.1f})"


def describe_final(winner: dict[str, Any], recipe: dict[str, Any], students: int) -> str:
    """Return a sentence about the winner and the recipe's own setting on the validation images.

    Args:
        winner, recipe: scores of a student, as in a run's ``metrics.json``.
        students: whose mean these are.
    """
    lead = winner["top1_last_mean"] - recipe["top1_last_mean"]
    stds = [scores["top1_last_std"] for scores in (winner, recipe)]
    error = None if None in stds else math.sqrt(sum(std**2 for std in stds) / students)
    verb, remedy = ("leads", "") if lead > 0 else ("does not beat", "; the recipe's own setting is as good or better")
    text = f"the winner {verb} the recipe's own setting there ({100 * lead:+.1f} points"
    if error is None:
        return f"{text}, of one student each, which says little about the noise){remedy}"
    within = "within" if abs(lead) < 2 * error else "beyond"
    return f"{text}, standard error {100 * error:.1f}: {within} the noise of the students' seeds){remedy}"


def short(value: Any) -> str:
    """Return a field's value as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
