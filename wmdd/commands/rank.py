"""Score a set of images fairly: every student that DD-Ranking's scores need (`wmdd.report.ranking`), on one store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wmdd.commands.executors import check_executor, open_executor
from wmdd.config.callers import names_arguments
from wmdd.config.distill import DistillConfig, override
from wmdd.config.recipes import as_config
from wmdd.config.resolve import with_method
from wmdd.engine.events import Listener
from wmdd.engine.run_names import located
from wmdd.engine.session import Session
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
    "evaluate.augment": "none",
}


@dataclass(frozen=True)
class Ranking:
    """Finished scores: their folder, and the content of its ``ranking.json``."""

    url: str
    facts: dict[str, Any]

    def __repr__(self) -> str:
        rows = (f"{row['student']}: LRS {row['LRS']:.3f}, ARS {row['ARS']:.3f}" for row in self.facts["rows"])
        return printable(
            f"Ranking({self.facts['set']}, {self.facts['ipc']} per class; {'; '.join(rows)}; in {self.url})"
        )


def trials(config: DistillConfig, rates: Sequence[float]) -> dict[str, dict[float, DistillConfig]]:
    """Return every configuration whose students are needed, by purpose and by learning rate.

    The set itself is trained on with the protocol's rate; random images and hard labels get the best of `rates`, so
    that no score comes from a rate that suits the other side badly.
    """
    rate = config.evaluate.lr
    distilled = override(config, {"evaluate.baselines": (), "evaluate.worth": ()})
    random, plain = with_method(distilled, "random"), override(distilled, _PLAIN)
    augment = config.relabel.augment if config.evaluate.labels == "soft" else config.evaluate.augment
    views = {"relabel.mix": "none", "relabel.augment": "none", "evaluate.augment": augment}
    hard = override(distilled, {"evaluate.labels": "hard", "relabel.teachers": (), **views})

    def each(base: DistillConfig) -> dict[float, DistillConfig]:
        # The rate of Muon's matrices keeps its ratio to that of all else.
        muon = base.evaluate.muon_lr / base.evaluate.lr
        return {
            rate: override(base, {"evaluate.lr": rate, "evaluate.muon_lr": muon * rate, "evaluate.rates": ()})
            for rate in dict.fromkeys(rates)
        }

    return {
        "made_soft": {rate: distilled},
        "made_hard": each(hard),
        "random_soft": each(random),
        "made_plain": {rate: plain},
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
    listener: Listener = lambda event: None,
    status: Callable[[int, int], None] = lambda done, total: None,
) -> Ranking:
    """Train every student that the two scores need, and write ``ranking.json`` and ``ranking.md``.

    Raises:
        ConfigError, DataError: before anything runs.
        StageError: when a unit failed; all others are saved.
    """
    check_executor(executor)
    config = as_config(config)
    _check(config, rates, weight)
    config = located(config)
    session = Session("rank", config, run, store, listener, options=own_options(rates, weight))
    _refuse_other(session.folder, {"rates": list(rates), "weight": weight})
    needed = trials(config, rates)
    configs = {_name(purpose, rate): case for purpose, cases in needed.items() for rate, case in cases.items()}
    plans = session.plan(configs, status, alone=executor == "local")
    with session.hold():
        session.note_start({})
        session.run(plans, open_executor(executor, config))
        results = {
            purpose: {rate: collect_metrics(plans[_name(purpose, rate)], session.store) for rate in cases}
            for purpose, cases in needed.items()
        }
        return Ranking(session.url, write_ranking(session.folder, config, results, weight, rates))


def _check(config: DistillConfig, rates: Sequence[float], weight: float) -> None:
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


def own_options(rates: Sequence[float], weight: float) -> dict[str, Any]:
    """Return the options of a ranking that are not the default ones."""
    options: dict[str, Any] = {} if tuple(rates) == RATES else {"rates": list(rates)}
    return options if weight == WEIGHT else {**options, "weight": weight}


def _refuse_other(folder: Folder, options: dict[str, Any]) -> None:
    """Refuse a folder whose ranking was made with other options."""
    try:
        ranking = json.loads(folder.read("ranking.json") or b"{}")
        before = {name: ranking.get(name) for name in options}
    except (ValueError, AttributeError):
        return
    for name, value in options.items():
        if before[name] not in (None, value):
            text = ",".join(f"{rate:g}" for rate in before[name]) if name == "rates" else f"{before[name]:g}"
            raise ConfigError(
                f"--run {folder.url}: holds a ranking with --{name} {text}, and is left alone; give another --run, or "
                "delete that folder first"
            )


def _name(purpose: str, rate: float) -> str:
    return f"{purpose}-lr-{rate:g}"
