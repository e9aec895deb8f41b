"""Label-robust and augmentation-robust score: images apart from training tricks (DD-Ranking, Li et al., 2024).

Soft labels and augmentations raise the accuracy of any set, random images too. So the label-robust score (LRS) weighs
how much a set improves over random images under the same labels (IOR) against what it loses to all data when both have
class names alone (HLR). The augmentation-robust score (ARS) weighs its lead over random images with augmentations and
without. Everything here is a fraction in [0, 1]; ddranking 0.2.0 puts percentages into the same formulas, so its scores
differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from wmdd.config.distill import DistillConfig
from wmdd.report import costs
from wmdd.report.scores import SHARED, scored_on, scores_of, teachers_of
from wmdd.report.tables import console_table, markdown_table, of_students, percent
from wmdd.storage.folder import Folder
from wmdd.text import escape_markdown

Results = Mapping[str, Mapping[float, dict[str, Any]]]  # metrics of each purpose by learning rate
# The students of each purpose: their column, and what they are trained on.
_PARTS = {
    "made_soft": ("soft", "the images, soft labels"),
    "random_soft": ("random soft", "random images, soft labels"),
    "made_hard": ("hard", "the images, class names"),
    "real_hard": ("all data", "all real images, class names"),
    "made_plain": ("no views", "the images as they are, soft labels"),
    "random_plain": ("random no views", "random images as they are, soft labels"),
}
_HEAD = ("student", "LRS", "ARS", *(column for column, _ in _PARTS.values()))
_TRAINING_HEAD = ("student", "column", "trained on", "learning rate", "protocol")
_COST_HEAD = ("column", "rates", *costs.HEAD)
_COST_CAPTION = f"{costs.CAPTION}; students count at all learning rates that were tried, those of all data in no row"


def normalised(alpha: float) -> float:
    """Map [-1, 1] to [0, 1], steeper at its upper end: (e^alpha - e^-1) / (e - e^-1)."""
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))


def label_robust_score(
    real_hard: float, made_hard: float, made_soft: float, random_soft: float, weight: float = 0.5
) -> dict[str, float]:
    """Return IOR, HLR and LRS.

    Args:
        real_hard, made_hard: top-1 of students of all data, and of the set, that saw class names alone.
        made_soft, random_soft: top-1 of students of the set, and of random images, under the same soft labels.
        weight: of IOR against HLR, in [0, 1].
    """
    improvement = made_soft - random_soft
    loss = real_hard - made_hard
    return {"IOR": improvement, "HLR": loss, "LRS": normalised(weight * improvement - (1 - weight) * loss)}


def augmentation_robust_score(
    made: float, random: float, made_plain: float, random_plain: float, weight: float = 0.5
) -> dict[str, float]:
    """Return the lead over random images with augmentations and without (`plain`), and ARS."""
    lead = made - random
    lead_plain = made_plain - random_plain
    return {"win": lead, "win_plain": lead_plain, "ARS": normalised(weight * lead + (1 - weight) * lead_plain)}


def write_ranking(
    folder: Folder, config: DistillConfig, results: Results, weight: float, rates: Sequence[float]
) -> dict[str, Any]:
    """Write ``ranking.json`` and ``ranking.md``, and return the content of the first."""
    ranking = _ranking(config, results, weight) | {"rates": list(rates)}
    folder.write("ranking.json", json.dumps(ranking, indent=1).encode())
    folder.write("ranking.md", markdown(ranking).encode())
    return ranking


def _ranking(config: DistillConfig, results: Results, weight: float) -> dict[str, Any]:
    first = next(iter(results["made_soft"].values()))
    return {
        "schema": 2,
        **{name: first[name] for name in (*SHARED, "method", "ipc")},
        "num_students": config.evaluate.num_students,
        "weight": weight,
        "rows": [
            _row(student, scores["full_data"], config, results, weight) for student, scores in first["students"].items()
        ],
        "bytes": {purpose: next(iter(by_rate.values()))["bytes"] for purpose, by_rate in results.items()},
        "seconds": {purpose: _seconds(by_rate) for purpose, by_rate in results.items()},
    }


def _seconds(by_rate: Mapping[float, dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of work of one purpose, by stage: its rates differ in nothing but their students."""
    by_stage = [metrics["seconds"] for metrics in by_rate.values()]
    return {**by_stage[0], "evaluate": round(sum(seconds["evaluate"] for seconds in by_stage), 3)}


def _row(
    student: str, full: Mapping[str, Any], config: DistillConfig, results: Results, weight: float
) -> dict[str, Any]:
    parts = {purpose: _part(purpose, student, config, by_rate) for purpose, by_rate in results.items()}
    parts["real_hard"] = {"top1": full["top1"], "std": None, "from": full["from"]}
    top1 = {purpose: part["top1"] for purpose, part in parts.items()}
    made, random = top1["made_soft"], top1["random_soft"]
    return {
        "student": student,
        "parts": parts,
        **label_robust_score(top1["real_hard"], top1["made_hard"], made, random, weight),
        **augmentation_robust_score(made, random, top1["made_plain"], top1["random_plain"], weight),
    }


def _part(purpose: str, student: str, config: DistillConfig, by_rate: Mapping[float, dict[str, Any]]) -> dict[str, Any]:
    """Return the accuracy of one purpose at the best of its rates, and how it came about."""
    scores = {rate: scores_of(metrics["method"], metrics["students"][student]) for rate, metrics in by_rate.items()}
    best = max(scores, key=lambda rate: scores[rate]["top1_last_mean"])
    keeps_rate = purpose in ("made_soft", "made_plain")
    return {
        "top1": scores[best]["top1_last_mean"],
        "std": scores[best]["top1_last_std"],
        "lr": config.evaluate.of(student).lr if keeps_rate else best,
        "lr_chosen_from": [] if keeps_rate else list(by_rate),
        "protocol": by_rate[best]["students"][student]["protocol"],
    }


def _cells(ranking: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the scores: a student in each, with the accuracies in % that they come from."""
    table = []
    for row in ranking["rows"]:
        parts = [row["parts"][purpose] for purpose in _PARTS]
        accuracies = (percent(part["top1"], part["std"]) for part in parts)
        table.append([row["student"], f"{row['LRS']:.3f}", f"{row['ARS']:.3f}", *accuracies])
    return table


def _training_cells(ranking: dict[str, Any]) -> list[list[str]]:
    """Return how each accuracy came about: student, column, images, learning rate, and protocol with its hash."""
    table = []
    for row in ranking["rows"]:
        for purpose, (column, images) in _PARTS.items():
            part = row["parts"][purpose]
            if "protocol" in part:
                rates = ", ".join(f"{rate:g}" for rate in part["lr_chosen_from"])
                rate = f"{part['lr']:g}" + (f", best of {rates}" if rates else "")
                protocol = f"{part['protocol']['name']} {part['protocol']['hash']}"
            else:
                rate, protocol = "", {"teacher": "the teacher itself"}.get(part["from"], part["from"])
            table.append([row["student"], column, images, rate, protocol])
    return table


def _cost_cells(ranking: dict[str, Any]) -> list[list[str]]:
    """Return what the images, labels and students of each column take; nothing is known of those of all data."""
    sizes, seconds, parts = ranking["bytes"], ranking["seconds"], ranking["rows"][0]["parts"]
    return [
        [
            column,
            str(len(parts[purpose]["lr_chosen_from"]) or 1),
            *costs.cost_cells(sizes[purpose], seconds[purpose]),
        ]
        for purpose, (column, _) in _PARTS.items()
        if purpose in sizes
    ]


def _caption(ranking: dict[str, Any], name: str) -> str:
    ipc = ranking["ipc"]
    return (
        f"{name}, {ranking['method']}, {ipc} image{'' if ipc == 1 else 's'} per class: top-1 in % on "
        f"{scored_on(ranking)}, last epoch, {of_students(ranking['num_students'])}; {teachers_of(ranking)}; "
        f"the first part of each score weighs {ranking['weight']:g}"
    )


def markdown(ranking: dict[str, Any]) -> str:
    """Return the tables for a README."""
    scores = markdown_table(_HEAD, _cells(ranking))
    trainings = markdown_table(_TRAINING_HEAD, _training_cells(ranking))
    taken = markdown_table(_COST_HEAD, _cost_cells(ranking))
    caption = _caption(ranking, escape_markdown(ranking["set"]))
    return f"{scores}\n\n{caption}\n\n{trainings}\n\n{taken}\n\n{_COST_CAPTION}.\n"


def columns(ranking: dict[str, Any]) -> list[Table]:
    """Return the tables for a terminal: the scores, how each student was trained, and what each column takes."""
    caption = _caption(ranking, ranking["set"])
    return [
        console_table(_HEAD, _cells(ranking), names=1, title=caption, pad_edge=False),
        console_table(_TRAINING_HEAD, _training_cells(ranking), names=1, title="how each was trained", pad_edge=False),
        console_table(_COST_HEAD, _cost_cells(ranking), names=1, title=_COST_CAPTION, pad_edge=False),
    ]
