"""Scores that tell images from tricks: label-robust and augmentation-robust score (DD-Ranking, Li et al., 2024).

Soft labels and views of its own lift any set, random images too. So the label-robust score (LRS) weighs how much a set
beats random images under the same labels (IOR) against what it loses to all data when both have class names alone
(HLR); the augmentation-robust score (ARS) weighs what it wins over random images with views and without. Everything
here is a fraction in [0, 1]; ddranking 0.2.0 puts percentages into the same formulas, so its scores are others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wmdd.commands.distill import check_executor, note_config, open_executor, open_places, refuse_alone
from wmdd.config.callers import names_arguments
from wmdd.config.distill import DistillConfig, override
from wmdd.config.methods import with_method
from wmdd.config.recipes import as_config
from wmdd.engine.console import both
from wmdd.engine.events import Event
from wmdd.engine.metrics_file import MetricsFile
from wmdd.engine.plan import make_plan
from wmdd.engine.run import run_plans
from wmdd.engine.run_folder import choose_run, hold
from wmdd.engine.run_names import located, set_title
from wmdd.errors import ConfigError
from wmdd.report.scores import collect_metrics, committee, scored_on
from wmdd.storage.folder import Folder
from wmdd.text import escape_markdown, printable

RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
WEIGHT = 0.5
_PLAIN: dict[str, Any] = {
    "relabel.crop_scale": (1.0, 1.0),
    "relabel.flip": False,
    "relabel.mix": "none",
    "relabel.augment": "none",
}


def normalised(alpha: float) -> float:
    """Map [-1, 1] to [0, 1], steeper at its upper end: (e^alpha - e^-1) / (e - e^-1)."""
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))


def label_robust_score(
    real_hard: float, made_hard: float, made_soft: float, random_soft: float, weight: float = 0.5
) -> dict[str, float]:
    """Give IOR, HLR and LRS.

    Args:
        real_hard, made_hard: top-1 of students of all data, and of the set, that saw class names alone.
        made_soft, random_soft: top-1 of students of the set, and of random images, under the same soft labels.
        weight: of IOR against HLR, in [0, 1].
    """
    improvement, lost = made_soft - random_soft, real_hard - made_hard
    return {"IOR": improvement, "HLR": lost, "LRS": normalised(weight * improvement - (1 - weight) * lost)}


def augmentation_robust_score(
    made: float, random: float, made_plain: float, random_plain: float, weight: float = 0.5
) -> dict[str, float]:
    """Give the win over random images with views and without (`plain`), and ARS."""
    win, plain = made - random, made_plain - random_plain
    return {"win": win, "win_plain": plain, "ARS": normalised(weight * win + (1 - weight) * plain)}


@dataclass(frozen=True)
class Ranking:
    """Finished scores: their folder, and the content of its ``ranking.json``."""

    url: str
    facts: dict[str, Any]

    def __repr__(self) -> str:
        rows = (f"{row['student']}: LRS {row['LRS']:.3f}, ARS {row['ARS']:.3f}" for row in self.facts["rows"])
        told = f"{self.facts['set']}, {self.facts['ipc']} per class; {'; '.join(rows)}"
        return printable(f"Ranking({told}; in {self.url})")


def trials(config: DistillConfig, rates: Sequence[float]) -> dict[str, dict[float, DistillConfig]]:
    """Give every configuration whose students are needed, by what it is for and by learning rate.

    The set itself is trained on with the protocol's own rate; random images and hard labels get the best of `rates`,
    so that no score comes from a rate that suits the other side badly.
    """
    own = config.evaluate.lr
    alone = override(config, {"evaluate.random_real": False})
    random, plain = with_method(alone, "random"), override(alone, _PLAIN)
    views = {"relabel.mix": "none", "relabel.augment": "none", "evaluate.augment": config.relabel.augment}
    hard = override(alone, {"evaluate.labels": "hard", "relabel.teachers": (), **views})

    def each(base: DistillConfig) -> dict[float, DistillConfig]:
        return {rate: override(base, {"evaluate.lr": rate, "evaluate.rates": ()}) for rate in dict.fromkeys(rates)}

    return {
        "made_soft": {own: alone},
        "made_hard": each(hard),
        "random_soft": each(random),
        "made_plain": {own: plain},
        "random_plain": each(override(random, _PLAIN)),
    }


@names_arguments()
def rank(
    config: DistillConfig | str,
    *,
    rates: Sequence[float] = RATES,
    weight: float = WEIGHT,
    run: str | None = None,
    store: str | None = None,
    executor: str = "ray",
    listener: Callable[[Event], None] = lambda event: None,
    status: Callable[[int, int], None] = lambda done, total: None,
) -> Ranking:
    """Train every student that the two scores need, and write ``ranking.json`` and ``ranking.md``.

    Raises:
        ConfigError, DataError: before anything runs.
        StageError: when a unit failed; all others are saved.
    """
    check_executor(executor)
    config = as_config(config)
    if not (rates and all(rate > 0 for rate in rates)):
        raise ConfigError(f"--rates {','.join(f'{rate:g}' for rate in rates) or '()'}: give rates above 0")
    if not 0 <= weight <= 1:
        raise ConfigError(f"--weight {weight:g}: give one between 0 and 1")
    if config.method == "random":
        raise ConfigError("--method random: random images are what others are measured against; choose another")
    if config.evaluate.labels == "hard":
        raise ConfigError(
            "evaluate.labels=hard: the scores weigh soft labels against class names, and train with both; choose a "
            "protocol with soft labels"
        )
    if not config.evaluate.full_data:
        raise ConfigError("evaluate.full_data=false: the scores need students of all data; set it to true")
    config = located(config)
    url, artifacts = open_places(run, store, config, "rank", listener, more=own_options(rates, weight))
    _refuse_other(Folder(url), rates, weight)
    made = {(purpose, rate): case for purpose, cases in trials(config, rates).items() for rate, case in cases.items()}
    plans = {key: make_plan(case, artifacts, status) for key, case in made.items()}
    refuse_alone(executor, plans.values(), artifacts)
    with hold(url, lambda: choose_run(url, config, "rank", more=own_options(rates, weight))):
        note_config(url, config)
        workers, metrics = open_executor(executor, config), MetricsFile(url)
        try:
            by_name = {f"{name}-lr-{rate:g}": plan for (name, rate), plan in plans.items()}
            run_plans(by_name, artifacts, workers, both(listener, metrics))
        finally:
            workers.close()
            metrics.close()
        found = dict[str, dict[float, dict[str, Any]]]()
        for (purpose, rate), plan in plans.items():
            found.setdefault(purpose, {})[rate] = collect_metrics(plan, artifacts)
        facts = _facts(config, found, weight) | {"rates": list(rates)}
        folder = Folder(url)
        folder.write("ranking.json", json.dumps(facts, indent=1).encode())
        folder.write("ranking.md", markdown(facts).encode())
        return Ranking(url, facts)


def own_options(rates: Sequence[float], weight: float) -> dict[str, Any]:
    """Return the options of a ranking that are not the default ones."""
    found: dict[str, Any] = {} if tuple(rates) == RATES else {"rates": list(rates)}
    return found if weight == WEIGHT else {**found, "weight": weight}


def _refuse_other(folder: Folder, rates: Sequence[float], weight: float) -> None:
    """Refuse a folder whose ranking was made with other options of its own."""
    try:
        facts = json.loads(folder.read("ranking.json") or b"{}")
        before = {name: facts.get(name) for name in ("rates", "weight")}
    except (ValueError, AttributeError):
        return
    for name, value in {"rates": list(rates), "weight": weight}.items():
        if before[name] not in (None, value):
            shown = ",".join(f"{rate:g}" for rate in before[name]) if name == "rates" else f"{before[name]:g}"
            raise ConfigError(
                f"--run {folder.url}: holds a ranking with --{name} {shown}, and is left alone; give another --run, or "
                "delete that folder first"
            )


def _facts(config: DistillConfig, found: dict[str, dict[float, dict[str, Any]]], weight: float) -> dict[str, Any]:
    first = next(iter(found["made_soft"].values()))
    rows = []
    for student, scores in first["students"].items():
        parts = {purpose: _part(purpose, student, config, by_rate) for purpose, by_rate in found.items()}
        parts["real_hard"] = {"top1": scores["full_data"]["top1"], "std": None, "from": scores["full_data"]["from"]}
        top = {purpose: part["top1"] for purpose, part in parts.items()}
        lrs = label_robust_score(top["real_hard"], top["made_hard"], top["made_soft"], top["random_soft"], weight)
        ars = augmentation_robust_score(
            top["made_soft"], top["random_soft"], top["made_plain"], top["random_plain"], weight
        )
        rows.append({"student": student, "parts": parts, **lrs, **ars})
    same = ("teacher", "labelled_with", "classes", "train_images", "validation_images", "validation_digest")
    return {
        "schema": 2,
        "recipe": config.recipe,
        "set": set_title(config),
        "method": config.method,
        "seed": config.seed,
        "ipc": config.barycenter.ipc,
        "seeds": config.evaluate.seeds,
        "weight": weight,
        **{name: first[name] for name in same},
        "rows": rows,
    }


def _part(purpose: str, student: str, config: DistillConfig, by_rate: dict[float, dict[str, Any]]) -> dict[str, Any]:
    """Give the accuracy of one kind of training, at the best of its rates, and how it came about."""
    key = "random_real" if purpose.startswith("random") else "distilled"
    best = max(by_rate, key=lambda rate: by_rate[rate]["students"][student][key]["top1_last_mean"])
    own = by_rate[best]["students"][student]
    kept = purpose in ("made_soft", "made_plain")
    return {
        "top1": own[key]["top1_last_mean"],
        "std": own[key]["top1_last_std"],
        "lr": config.evaluate.of(student).lr if kept else best,
        "lr_chosen_from": [] if kept else list(by_rate),
        "protocol": own["protocol"],
    }


HEAD = ("student", "LRS", "ARS", "soft", "random soft", "hard", "all data", "no views", "random no views")
_PARTS = ("made_soft", "random_soft", "made_hard", "real_hard", "made_plain", "random_plain")


_WHAT = {
    "soft": "the images, soft labels",
    "random soft": "random images, soft labels",
    "hard": "the images, class names",
    "all data": "all real images, class names",
    "no views": "the images as they are, soft labels",
    "random no views": "random images as they are, soft labels",
}


def cells(facts: dict[str, Any]) -> list[list[str]]:
    """Lay the scores out, a student in a row, with the accuracies in % that they come from."""

    def shown(part: dict[str, Any]) -> str:
        return " ± ".join(f"{100 * value:.1f}" for value in (part["top1"], part["std"]) if value is not None)

    return [
        [row["student"], f"{row['LRS']:.3f}", f"{row['ARS']:.3f}", *(shown(row["parts"][part]) for part in _PARTS)]
        for row in facts["rows"]
    ]


def training_cells(facts: dict[str, Any]) -> list[list[str]]:
    """Lay out how each accuracy came about: student, kind, learning rate, and protocol with its hash."""
    table = []
    for row in facts["rows"]:
        for title, part in zip(HEAD[3:], (row["parts"][name] for name in _PARTS), strict=True):
            told = [_WHAT[title]]
            if "protocol" in part:
                rates = part["lr_chosen_from"]
                chosen = f", best of {', '.join(f'{rate:g}' for rate in rates)}" if rates else ""
                told += [f"{part['lr']:g}{chosen}", f"{part['protocol']['name']} {part['protocol']['hash']}"]
            else:
                told += ["", {"teacher": "the teacher itself"}.get(part["from"], part["from"])]
            table.append([row["student"], title, *told])
    return table


TRAINING_HEAD = ("student", "column", "trained on", "learning rate", "protocol")


def caption(facts: dict[str, Any]) -> str:
    """Say what the accuracies are."""
    images, seeds, teacher = facts["ipc"], facts["seeds"], facts["teacher"]
    over = f"mean ± sample deviation of {seeds} students" if seeds > 1 else "one student"
    return (
        f"{facts['set']}, {facts['method']}, {images} image{'' if images == 1 else 's'} per class: top-1 in % on "
        f"{scored_on(facts)}, last epoch, {over}; teacher {teacher['model']}, {100 * teacher['top1']:.1f} %"
        f"{committee(facts)}; "
        f"the first part of each score weighs {facts['weight']:g}"
    )


def markdown(facts: dict[str, Any]) -> str:
    """Write the tables for a README."""

    def table(head: Sequence[str], rows: list[list[str]]) -> str:
        return "\n".join(f"| {' | '.join(line)} |" for line in [list(head), ["---"] * len(head), *rows])

    scores, trainings = table(HEAD, cells(facts)), table(TRAINING_HEAD, training_cells(facts))
    told = caption(facts | {"set": escape_markdown(facts["set"])})
    return f"{scores}\n\n{told}\n\n{trainings}\n"
