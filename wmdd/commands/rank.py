"""Score a set of images fairly: every student that DD-Ranking's scores need (`wmdd.report.ranking`), on one store."""

from __future__ import annotations

import json
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
from wmdd.engine.run_names import located
from wmdd.errors import ConfigError
from wmdd.report.ranking import write_ranking
from wmdd.report.scores import collect_metrics
from wmdd.storage.folder import Folder
from wmdd.text import printable

RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
WEIGHT = 0.5
_PLAIN: dict[str, Any] = {
    "relabel.crop_scale": (1.0, 1.0),
    "relabel.flip": False,
    "relabel.mix": "none",
    "relabel.augment": "none",
}


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
        return Ranking(url, write_ranking(Folder(url), config, found, weight, rates))


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
