"""Run a search on Ray Tune: ``wmdd tune``.

Tune proposes settings, places trials and stops those that do worse than others. All results are in wmdd's own store
under content keys, so that a trial that is tried again, or a search that is continued, finds what it had done.
"""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tuning.config import TuneConfig, check_space, search_config
from tuning.objective import SHARED_STAGES, Objective
from tuning.space import Domain
from tuning.trials import Trial, noise, spoken_final, spoken_lead, table
from wmdd.commands.distill import distill, open_folder, open_run, open_store
from wmdd.config.callers import names_arguments
from wmdd.config.distill import DistillConfig, from_yaml, override, to_yaml
from wmdd.engine.events import Event, Listener
from wmdd.engine.plan import make_plan
from wmdd.engine.run import run_plan
from wmdd.engine.run_folder import default_run, forget_other, refuse_in_set
from wmdd.engine.run_names import contrast, located
from wmdd.errors import ConfigError, WmddError
from wmdd.report.scores import ScoreRow, protocol_line, protocol_of, score_rows
from wmdd.storage.filesystem import is_local
from wmdd.storage.folder import Folder
from wmdd.storage.store import ArtifactStore

# Tune's own words to the terminal, beside ours.
QUIET = {"TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0", "RAY_AIR_NEW_OUTPUT": "0"}


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
        return spoken_lead(**noise(self.winner, self.trials, self.students))

    def final_leads(self) -> dict[str, str]:
        """Return, for each student, how the winner does on the validation images against the recipe's own setting."""
        if len(self.final) < 2:
            return {}
        winner, own = (self.final[name]["students"] for name in ("winner", "recipe"))
        seeds = self.best.evaluate.seeds
        return {name: spoken_final(winner[name]["distilled"], own[name]["distilled"], seeds) for name in winner}

    def final_rows(self) -> dict[str, list[ScoreRow]]:
        """Give the scores of the distilled images on the validation images."""
        spoken = {"winner": "winner", "recipe": "recipe's own setting"}
        return {
            spoken[name]: [row for row in score_rows(metrics) if row.name.startswith("distilled")]
            for name, metrics in self.final.items()
        }


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
        store: URL of the artifact store; default ``store`` beside the run folder.

    Raises:
        ConfigError, DataError: before anything runs.
        WmddError: if no trial reached the last level.
    """
    from ray_jobs.connect import connect
    from ray_jobs.executor import RayExecutor
    from tuning.report import write_page

    config = located(config)
    space = check_space(config, tune)
    url = (run or default_run(config, "tune")).rstrip("/")
    refuse_in_set(config, url, store)
    folder, artifacts = open_run(url, "tune.json"), open_store(store, url)
    shared = search_config(config, tune)
    plan = make_plan(shared, artifacts, status)
    _note_search(folder, config, tune, artifacts)
    owns_ray = connect(config.ray.address or os.environ.get("RAY_ADDRESS"))
    try:
        prepared = replace(plan, tasks={stage: plan.tasks[stage] for stage in SHARED_STAGES})
        run_plan(prepared, artifacts, RayExecutor(shared), listener)
        objective = Objective(shared, tune, artifacts.url, plan.index_ref, _share(config)["gpu"] > 0)
        trials = _run_trials(objective, space, folder, listener)
        folder.write("trials.parquet", table(trials))
        winner = _winner(trials)
        best = override(config, winner.values)
        folder.write("best.yaml", _yaml(best).encode())
        outcome = Outcome(folder.url, trials, winner, best, {}, tune.student_seeds)
        write_page(outcome, objective, space, folder)  # what is known, whatever becomes of the rest
        for name, chosen in {"winner": best, "recipe": config}.items() if tune.final else ():
            listener(Event("note", "", text=f"{name}: all data, with {_spoken(chosen, space)}"))
            forget_other(Folder(f"{url}/{name}"), chosen)
            outcome.final[name] = distill(chosen, run=f"{url}/{name}", store=artifacts.url, listener=listener).metrics
        write_page(outcome, objective, space, folder)
        return outcome
    finally:
        if owns_ray:
            import ray

            ray.shutdown()


def read_search(url: str) -> tuple[DistillConfig, TuneConfig, str]:
    """Read what a run folder searches; give its configuration, options and store.

    Raises:
        ConfigError: if it holds no search.
    """
    folder = open_folder("--resume", url)
    facts, config = folder.read("tune.json"), folder.read("config.yaml")
    if facts is None or config is None:
        raise ConfigError(f"--resume {url}: holds no search (tune.json); give the folder of wmdd tune --run")
    found = json.loads(facts)
    return from_yaml(config.decode()), TuneConfig.model_validate(found["tune"]), found["store"]


def _note_search(folder: Folder, config: DistillConfig, tune: TuneConfig, store: ArtifactStore) -> None:
    """Write down what is searched; whoever comes again must mean the same, wherever it is to run."""
    own = tune.model_dump(mode="json")
    if folder.read("tune.json") is not None:
        before, known, _ = read_search(folder.url)
        asked = known.model_dump(mode="json")
        changed = [f"--tune.{name} differs" for name, value in asked.items() if own[name] != value]
        changed += [other] if (other := contrast(before, config)) else []
        if changed:
            raise ConfigError(
                f"--run {folder.url}: holds another search ({changed[0]}); give another folder, or wmdd tune "
                f"--resume {shlex.quote(folder.url)}"
            )
    folder.write("config.yaml", to_yaml(config).encode())
    folder.write("tune.json", json.dumps({"tune": own, "store": store.url}, indent=1).encode())


def _yaml(config: DistillConfig) -> str:
    """Write a configuration without where it ran."""
    return to_yaml(config.model_copy(update={"ray": type(config.ray)()}))


def _share(config: DistillConfig) -> dict[str, float]:
    """What one trial reserves, as one worker of a run does."""
    import ray

    from ray_jobs.resources import Shares

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    share = Shares.of(config.ray, nodes, config.runtime.device).of_kind("main")
    return {"cpu": share.cpus, "gpu": share.gpus}


def trainable(values: dict[str, Any], objective: Objective) -> None:
    """Run a trial inside one of Tune's workers."""
    from ray import tune

    for facts in objective.climb(values):
        tune.report(facts | {"rung": objective.tune.keep ** (facts["level"] - 1)})


def _run_trials(objective: Objective, space: dict[str, Domain], folder: Folder, listener: Listener) -> list[Trial]:
    os.environ.update(QUIET)
    from ray import tune

    from tuning import callback as watch

    options = objective.tune
    fits = tune.with_parameters(tune.with_resources(trainable, _share(objective.config)), objective=objective)
    storage, filesystem = _storage(folder)
    path = f"{storage}/trials"
    watch.LISTENERS[:] = [listener]
    watch.OPEN.clear()
    watch.ENDED.clear()
    listener(Event("stage", watch.STAGE, total=options.samples))
    if tune.Tuner.can_restore(path, storage_filesystem=filesystem):
        listener(Event("note", "", text=f"the search in {folder.url} goes on"))
        tuner = tune.Tuner.restore(path, trainable=fits, restart_errored=True, storage_filesystem=filesystem)
    else:
        tuner = tune.Tuner(
            fits,
            param_space={field: _to_tune(domain) for field, domain in space.items()},
            tune_config=tune.TuneConfig(
                num_samples=options.samples,
                search_alg=_searcher(objective, space),
                scheduler=_scheduler(options),
                max_concurrent_trials=options.concurrent or None,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=storage,
                storage_filesystem=filesystem,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=options.retries),
                callbacks=[watch.Watcher(options)],
            ),
        )
    results = _fit(tuner)
    listener(Event("end", watch.STAGE, done=len(results) - len(watch.OPEN), total=options.samples))
    if watch.OPEN or len(results) < options.samples:
        raise KeyboardInterrupt  # Tune takes Ctrl-C for itself, and ends as if all were over
    # A result without a report names no setting; its trial does.
    settings = [trial.config for trial in results._experiment_analysis.trials]
    found = [Trial.of(values, result, options) for values, result in zip(settings, results, strict=True)]
    return sorted(found, key=lambda trial: trial.begun)


def _fit(tuner: Any) -> Any:
    """Run Tune."""
    with warnings.catch_warnings():  # a trial that a killed search was at reports once more what the searcher knows
        warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
        return tuner.fit()


def _storage(folder: Folder) -> tuple[str, Any]:
    """Give Tune's own folder below the search's, and pyarrow's file system of it; None for this machine's."""
    if is_local(folder.fs):
        return folder.path("ray"), None
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return folder.path("ray"), getattr(folder.fs, "fs", None) or PyFileSystem(FSSpecHandler(folder.fs))


def _searcher(objective: Objective, space: dict[str, Domain]) -> Any:
    import optuna
    from ray.tune.search.basic_variant import BasicVariantGenerator
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    own = {field: _value(objective.config, field) for field in space}
    first = [own] if all(space[field].holds(value) for field, value in own.items()) else None
    seed = objective.tune.seed
    if objective.tune.searcher == "random":
        return BasicVariantGenerator(points_to_evaluate=first, random_state=seed)
    return OptunaSearch(metric="score", mode="max", points_to_evaluate=first, seed=seed)


def _scheduler(options: TuneConfig) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    levels = len(options.levels)
    if not options.stop_early or levels == 1:
        return FIFOScheduler()
    # Tune's levels are powers of the factor.
    whole = options.keep ** (levels - 1)
    return ASHAScheduler(
        time_attr="rung", metric="score", mode="max", max_t=whole, grace_period=1, reduction_factor=options.keep
    )


def _to_tune(domain: Domain) -> Any:
    from ray import tune

    kinds = {"loguniform": tune.loguniform, "uniform": tune.uniform}
    if domain.kind == "choice":
        return tune.choice(list(domain.values))
    if domain.kind == "randint":
        return tune.randint(domain.values[0], domain.values[1] + 1)
    return kinds[domain.kind](*domain.values)


def _winner(trials: list[Trial]) -> Trial:
    whole = [trial for trial in trials if trial.is_whole]
    if not whole:
        causes = sorted({trial.stop for trial in trials})
        raise WmddError(f"no trial reached the last level: {'; '.join(causes[:3])}")
    return max(whole, key=lambda trial: trial.score)


def _value(config: DistillConfig, field: str) -> Any:
    section, _, name = field.partition(".")
    return getattr(getattr(config, section), name)


def _spoken(config: DistillConfig, space: dict[str, Domain]) -> str:
    return ", ".join(f"{field} {_value(config, field)}" for field in space)
