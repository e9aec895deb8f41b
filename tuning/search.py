"""Run a search on Ray Tune: ``wmdd tune``.

All results are in wmdd's own store under content keys, so that a trial that is tried again, or a search that goes on,
finds what is done already.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable
from typing import Any

from ray_jobs.executor import RayExecutor
from tuning.config import TuneConfig, check_space, search_config
from tuning.objective import Objective, prepare
from tuning.report import write_page
from tuning.trials import Outcome, Trial, best_trial, table
from tuning.tuner import drop_snapshots, run_trials, trial_share, value_of
from wmdd.commands.distill import distill
from wmdd.config.callers import names_arguments
from wmdd.config.distill import DistillConfig, from_yaml, override, to_yaml
from wmdd.config.machines import RayConfig
from wmdd.engine.events import Listener
from wmdd.engine.locations import open_folder
from wmdd.engine.run_names import contrast, located
from wmdd.engine.run_start import forget_other
from wmdd.engine.session import Session
from wmdd.errors import ConfigError
from wmdd.storage.folder import Folder


@names_arguments(resume="run")
def search(
    config: DistillConfig,
    tune: TuneConfig,
    *,
    run: str | None = None,
    store: str | None = None,
    listener: Listener = lambda event: None,
    status: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Search, or go on with the search that the run folder holds, and write its report.

    Args:
        config: the recipe whose fields are searched.
        run: URL of the search's folder; default ``runs/RECIPE-tune``, with the protocol's name.
        store: URL of the artifact store; default ``store`` next to the run folder.

    Raises:
        ConfigError, DataError: before anything runs.
        WmddError: if no trial reached the last level.
    """
    config = located(config)
    space = check_space(config, tune)
    session = Session("tune", config, run, store, listener)
    plan = session.plan({"": search_config(config, tune)}, status, alone=False)[""]
    with session.hold(), contextlib.closing(RayExecutor(config)) as executor:
        _note_search(session.folder, config, tune, session.store.url)
        executor.connect()
        prepare(plan, session.store, RayExecutor(plan.config), listener)
        has_gpu = trial_share(plan.config)["gpu"] > 0
        objective = Objective(plan.config, tune, session.store.url, plan.index_ref, has_gpu)
        trials = run_trials(objective, space, session.folder, listener)
        outcome = _conclude(config, trials, objective, session.folder)
        write_page(outcome, objective, space, session.folder)  # what is known, whatever becomes of the rest
        drop_snapshots(trials, objective)
        if tune.final:
            for name, chosen in {"winner": outcome.best, "recipe": config}.items():
                values = ", ".join(f"{field} {value_of(chosen, field)}" for field in space)
                session.note(f"{name}: all data, with {values}")
                outcome.final[name] = _distill_all(chosen, f"{session.url}/{name}", session.store.url, listener)
            write_page(outcome, objective, space, session.folder)
        return outcome


def _distill_all(config: DistillConfig, url: str, store: str, listener: Listener) -> dict[str, Any]:
    forget_other(Folder(url), config)
    return distill(config, run=url, store=store, listener=listener).metrics


def _conclude(config: DistillConfig, trials: list[Trial], objective: Objective, folder: Folder) -> Outcome:
    """Choose the winner; write the table of trials, and the winner's configuration without where it ran."""
    folder.write("trials.parquet", table(trials))
    winner = best_trial(trials)
    best = override(config, winner.values)
    folder.write("best.yaml", to_yaml(best.model_copy(update={"ray": RayConfig()})).encode())
    return Outcome(folder.url, trials, winner, best, {}, objective.tune.num_students)


def read_search(url: str) -> tuple[DistillConfig, TuneConfig, str]:
    """Return the configuration, the options and the store of the search in a run folder.

    Raises:
        ConfigError: if it holds no search.
    """
    folder = open_folder("--resume", url)
    noted, config = folder.read("tune.json"), folder.read("config.yaml")
    if noted is None or config is None:
        raise ConfigError(f"--resume {url}: holds no search (tune.json); give the folder of wmdd tune --run")
    search = json.loads(noted)
    return from_yaml(config.decode()), TuneConfig.model_validate(search["tune"]), search["store"]


def _note_search(folder: Folder, config: DistillConfig, tune: TuneConfig, store: str) -> None:
    """Write down what is searched; refuse a folder that holds a search with other options, wherever it runs."""
    options = tune.model_dump(mode="json")
    if folder.read("tune.json") is not None:
        before, known, _ = read_search(folder.url)
        asked = known.model_dump(mode="json")
        changed = [f"--tune.{name} differs" for name, value in asked.items() if options[name] != value]
        changed += [other] if (other := contrast(before, config)) else []
        if changed:
            raise ConfigError(
                f"--run {folder.url}: holds another search ({changed[0]}); give another folder, or wmdd tune "
                f"--resume {shlex.quote(folder.url)}"
            )
    folder.write("config.yaml", to_yaml(config).encode())
    folder.write("tune.json", json.dumps({"tune": options, "store": store}, indent=1).encode())
