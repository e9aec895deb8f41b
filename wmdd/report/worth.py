"""How many random real images per class give the score of the distilled ones, in about as many student steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from wmdd.engine.task import Plan
from wmdd.method.batch_sizes import batch_sizes, with_equal_steps
from wmdd.report.costs import training_of
from wmdd.report.tables import percent
from wmdd.stages.planning import smallest_class
from wmdd.text import two_digits


def worth_of(
    plan: Plan, distilled: Mapping[str, Any] | None, random: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return what the images of a run are worth to a student; None if the run did not ask for it.

    Args:
        distilled: scores of the student on the images, as in ``metrics.json``.
        random: its scores on random real images, by images per class.

    Returns:
        ``curve``: the scores on random real images, with ``ipc``, ``epochs`` and ``steps`` of each number; ``steps`` on
        the distilled ones; ``images``: random real images per class with the same score, or None with the ``bound``,
        "more" or "less"; ``smallest_class``: its images if it cuts a number that was asked for, else None.
    """
    asked, config = plan.config.evaluate.worth, plan.config
    if not asked or not random:
        return None
    classes = next(len(planned.refs) for planned in plan.image_sets.values())
    section, base = config.relabel, config.ipc * classes
    curve = []
    for ipc, scores in sorted(random.items()):
        own = with_equal_steps(section, base, ipc * classes)
        steps = own.epochs * len(batch_sizes(own, ipc * classes))
        curve.append({"ipc": ipc, "epochs": own.epochs, "steps": steps, **scores})
    points = [(int(point["ipc"]), float(point["top1_last_mean"])) for point in curve]
    images, bound = reached(points, distilled["top1_last_mean"]) if distilled else (None, None)
    smallest = smallest_class(plan.index, range(len(plan.index.class_names)))
    return {
        "curve": curve,
        "steps": training_of(plan)["steps"],
        "images": images,
        "bound": bound,
        "smallest_class": smallest if max(asked) * config.ipc > smallest else None,
    }


def reached(points: Sequence[tuple[int, float]], score: float) -> tuple[float | None, str | None]:
    """Return the number at which a curve first reaches a score, between points by its logarithm.

    Args:
        points: number and score, by number.

    Returns:
        The number and None; None with "more" if no point reaches the score, with "less" if the first is above it.
    """
    number, height = points[0]
    if height > score:
        return None, "less"
    for (left, low), (right, high) in itertools.pairwise(points):
        if low == score:
            return float(left), None
        if high >= score:
            share = (score - low) / (high - low)
            return math.exp(math.log(left) + share * math.log(right / left)), None
    number, height = points[-1]
    return (float(number), None) if height == score else (None, "more")


def worth_line(worth: Mapping[str, Any]) -> str:
    """Return in words what each class's images are worth; empty if there are none to compare with."""
    numbers = [point["ipc"] for point in worth["curve"]]
    limits = {"more": f"more than {numbers[-1]:,}", "less": f"less than {numbers[0]:,}"}
    if worth["images"] is None and not worth["bound"]:
        return ""
    number = limits[worth["bound"]] if worth["bound"] else f"about {two_digits(worth['images'])}"
    end = f"; the smallest class has {worth['smallest_class']:,}" if worth["smallest_class"] else ""
    return f"worth: {number} random real images per class (about as many student steps{end})"


def worth_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return what the images of a run are worth to each student, if that was asked for."""
    texts = {name: worth_line(scores["worth"]) for name, scores in metrics["students"].items() if scores.get("worth")}
    return [(f"{name}: " if len(metrics["students"]) > 1 else "") + text for name, text in texts.items() if text]


def curve_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the scores on random real images by their number per class, a line for each student."""
    lines = []
    for name, scores in metrics["students"].items():
        if scores.get("worth"):
            points = ((point["ipc"], point) for point in scores["worth"]["curve"])
            texts = (f"{ipc:,}: {percent(point['top1_last_mean'], point['top1_last_std'])}" for ipc, point in points)
            lines.append(f"{name}, top-1 in % on random real images by their number per class: {', '.join(texts)}")
    return lines


def worth_tables(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, for each student, the scores on random real images as rows of text, and the steps on the distilled."""
    return [
        {
            "name": name,
            "steps": f"{scores['worth']['steps']:,}",
            "rows": [
                [f"{point[number]:,}" for number in ("ipc", "epochs", "steps")]
                + [f"{percent(point['top1_last_mean'], point['top1_last_std'])} %"]
                for point in scores["worth"]["curve"]
            ],
        }
        for name, scores in metrics["students"].items()
        if scores.get("worth")
    ]
