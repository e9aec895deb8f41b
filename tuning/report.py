"""The search's page, ``tune.html``: a single file that needs no others."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import markupsafe

from tuning.objective import SHARED_STAGES, Objective, seconds_of
from tuning.space import Domain
from tuning.trials import Outcome, Trial, pareto, short
from tuning.tuner import to_tune
from wmdd.config.distill import to_yaml
from wmdd.engine.run import load_value
from wmdd.engine.run_names import subject
from wmdd.method.artifacts import DistilledClass
from wmdd.report.page import render
from wmdd.report.pictures import as_percent, figure, strip_uri, svg_text
from wmdd.storage.folder import Folder
from wmdd.storage.store import ArtifactStore

SHOWN_CLASSES = 10


def write_page(outcome: Outcome, objective: Objective, space: dict[str, Domain], folder: Folder) -> None:
    """Write the page of a finished search into its folder."""
    trials, whole = outcome.trials, [trial for trial in outcome.trials if trial.is_whole]
    store = ArtifactStore(objective.store_url)
    plan = objective.plan(outcome.winner.values, len(objective.tune.levels) - 1)
    shared_s = seconds_of([ref for stage in SHARED_STAGES for ref in plan.refs(stage)], store)
    # What as many settings would have cost without early stopping: the mean whole trial, each time.
    grid = len(trials) * sum(trial.cost_s for trial in whole) / max(1, len(whole))
    page = render(
        "tuning",
        outcome=outcome,
        subject=subject(outcome.best),
        space=space,
        trials=sorted(enumerate(trials), key=lambda item: (-len(item[1].scores), -item[1].score)),
        front=pareto(trials),
        importance=importance(trials, space),
        curves=[score_svg(trials, field, domain) for field, domain in space.items()] + [cost_svg(trials)],
        galleries=_galleries(whole, objective, store),
        spent=sum(trial.cost_s for trial in trials),
        grid=grid,
        shared_s=shared_s,
        short=short,
        tune=objective.tune,
        best=markupsafe.escape(to_yaml(outcome.best)),
    )
    folder.write("tune.html", page.encode())


def importance(trials: Sequence[Trial], space: dict[str, Domain]) -> dict[str, float]:
    """Return the share of the scores' variance by field, from Optuna's functional ANOVA; empty for too few trials."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    scored = [trial for trial in trials if trial.scores and math.isfinite(trial.score)]
    if len(scored) < 4 or len({trial.score for trial in scored}) < 2:
        return {}
    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = OptunaSearch.convert_search_space({field: to_tune(domain) for field, domain in space.items()})
    for trial in scored:
        frozen = optuna.trial.create_trial(params=trial.values, distributions=distributions, value=trial.score)
        study.add_trial(frozen)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def score_svg(trials: Sequence[Trial], field: str, domain: Domain) -> str:
    """Draw score against a field, each trial with its students' spread, by the level that it reached."""
    with figure(6.0, 3.4) as (drawing, (axes,)):
        axes.set(title=f"Top-1 on the search split against {field}", xlabel=field, ylabel="top-1")
        as_percent(axes)
        names = [str(value) for value in domain.values]
        for level in range(1, max((trial.levels for trial in trials), default=1) + 1):
            reached = [trial for trial in trials if len(trial.scores) == level]
            at = [names.index(str(t.values[field])) if domain.kind == "choice" else t.values[field] for t in reached]
            if reached:
                label = f"level {level}" + (" (whole)" if level == reached[0].levels else "")
                axes.errorbar(
                    at, [t.score for t in reached], [t.spread for t in reached],
                    fmt="o", markersize=4, alpha=0.4 + 0.6 * level / reached[0].levels, label=label, capsize=2,
                )  # fmt: skip
        if domain.kind == "loguniform":
            axes.set_xscale("log")
        if domain.kind == "choice":
            axes.set_xticks(range(len(names)), names, parse_math=False)
        axes.legend(frameon=False, fontsize=8)
        return svg_text(drawing)


def cost_svg(trials: Sequence[Trial]) -> str:
    """Draw score against cost, with the front that no other trial beats."""
    with figure(6.0, 3.4) as (drawing, (axes,)):
        axes.set(title="Top-1 against cost, and the Pareto front", xlabel="seconds of work", ylabel="top-1")
        as_percent(axes)
        scored, front = [trial for trial in trials if trial.scores], pareto(trials)
        axes.plot([t.cost_s for t in scored], [t.score for t in scored], "o", markersize=4, alpha=0.6)
        axes.step([t.cost_s for t in front], [t.score for t in front], where="post", linewidth=1.5)
        return svg_text(drawing)


def _galleries(whole: Sequence[Trial], objective: Objective, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return images of the best and the worst whole trial, class by class."""
    ranked = sorted(whole, key=lambda trial: trial.score)
    chosen = {"best": ranked[-1]} | ({"worst": ranked[0]} if len(ranked) > 1 else {})
    plans = {name: objective.plan(trial.values, len(objective.tune.levels) - 1) for name, trial in chosen.items()}
    rows = []
    for place, class_name in enumerate(plans["best"].index.class_names[:SHOWN_CLASSES]):
        row = {"name": class_name}
        for name, plan in plans.items():
            images: DistilledClass = load_value(plan.refs("recover")[place], store)
            row[name] = strip_uri(images.images[:10])
        rows.append(row)
    return [{"name": name, "trial": chosen[name]} for name in chosen] + [{"rows": rows}]
