"""By how much students of distilled images are better than students of real images that cost nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# What rows and curves of selected images are called; keys are those of `wmdd.config.methods.SELECTING`.
LABELS = {"random": "random real", "nearest": "nearest real", "easiest": "easiest real", "herding": "herding"}


def gain_of(scores: Mapping[str, Any] | None, baselines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the gain in top-1 of the last epoch over the best baseline, as a fraction; None if either is missing.

    Args:
        scores: mean, sample deviation and runs of some students, as in ``metrics.json``.
        baselines: the same of students of other images, by name.

    Returns:
        ``over`` (name of the best baseline), ``baseline`` (its mean), ``mean`` of the gain, and ``standard_error`` of
        that, from both sample deviations; None if one of them has a single student.
    """
    if not scores or not baselines:
        return None
    over = max(baselines, key=lambda name: baselines[name]["top1_last_mean"])
    best = baselines[over]
    squares = [
        part["top1_last_std"] ** 2 / len(part["runs"]) for part in (scores, best) if part["top1_last_std"] is not None
    ]
    return {
        "over": over,
        "baseline": best["top1_last_mean"],
        "mean": scores["top1_last_mean"] - best["top1_last_mean"],
        "standard_error": math.sqrt(sum(squares)) if len(squares) == 2 else None,
    }


def gain_text(gain: Mapping[str, Any], plus_minus: str = " ± ") -> str:
    """Return a gain in points, with its standard error if there is one."""
    error = gain["standard_error"]
    return f"{100 * gain['mean']:+.1f}" + ("" if error is None else f"{plus_minus}{100 * error:.1f}")


def gain_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return a line about the gain of each student of a run that has one."""
    gains = {name: scores["gain"] for name, scores in metrics["students"].items() if scores.get("gain")}
    return [
        (f"{name}: " if len(metrics["students"]) > 1 else "")
        + f"gain over the best baseline ({gain['over']}): {gain_text(gain)} points"
        for name, gain in gains.items()
    ]
