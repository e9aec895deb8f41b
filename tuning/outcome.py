"""A finished search: its winner, and whether its lead is more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuning.trials import Trial
from wmdd.config.distill import DistillConfig
from wmdd.errors import WmddError
from wmdd.report.scores import ScoreRow, protocol_line, protocol_of, score_rows


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
        seeds = self.best.evaluate.seeds
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
