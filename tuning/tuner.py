"""The trials of a search on Ray Tune, which proposes settings, places trials and stops those that fall behind."""

from __future__ import annotations

import contextlib
import os
import warnings
from typing import Any

from tuning.config import TuneConfig
from tuning.objective import Objective
from tuning.space import Domain
from tuning.trials import Trial
from wmdd.config.distill import DistillConfig
from wmdd.engine.events import Event, Listener
from wmdd.errors import StorageError
from wmdd.storage.folder import Folder

# Tune's own words to the terminal, in addition to ours.
QUIET = {"TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0", "RAY_AIR_NEW_OUTPUT": "0"}


def run_trials(objective: Objective, space: dict[str, Domain], folder: Folder, listener: Listener) -> list[Trial]:
    """Run the trials of a search, or those that are left of it, and return all in the order of their start.

    Args:
        folder: of the search.

    Raises:
        KeyboardInterrupt: if the search was interrupted.
    """
    os.environ.update(QUIET)
    from tuning import callback

    options = objective.tune
    callback.LISTENERS[:] = [listener]
    callback.OPEN.clear()
    callback.ENDED.clear()
    listener(Event("stage", callback.STAGE, total=options.samples))
    results = fit(_tuner(objective, space, folder, listener))
    listener(Event("end", callback.STAGE, done=len(results) - len(callback.OPEN), total=options.samples))
    if callback.OPEN or len(results) < options.samples:
        raise KeyboardInterrupt  # Tune takes Ctrl-C for itself, and ends as if all were over
    # A result without a report names no setting; its trial does.
    settings = [trial.config for trial in results._experiment_analysis.trials]
    trials = [Trial.of(values, result, options) for values, result in zip(settings, results, strict=True)]
    return sorted(trials, key=lambda trial: trial.begun)


def drop_snapshots(trials: list[Trial], objective: Objective) -> None:
    """Remove the snapshots of trials that ended for good below the last level; at the last level none is left.

    Trials that differ in nothing before their labels share a snapshot, which stays if any of them may go on.
    """
    stopped = [trial for trial in trials if trial.scores and not trial.is_whole]
    notes = [(trial.is_open, objective.snapshots(trial.values, len(trial.scores) - 1)) for trial in stopped]
    kept = {note.name for is_open, found in notes if is_open for note in found}
    with contextlib.suppress(StorageError):  # what is left takes room, and nothing else
        for note in {note.name: note for _, found in notes for note in found if note.name not in kept}.values():
            note.drop()


def _tuner(objective: Objective, space: dict[str, Domain], folder: Folder, listener: Listener) -> Any:
    """Return Tune's own search: the one that the folder holds, else a new one."""
    from ray import tune

    from tuning.callback import Watcher

    options = objective.tune
    runs = tune.with_resources(trainable, trial_share(objective.config))
    runs = tune.with_parameters(runs, objective=objective)
    storage, filesystem = folder.path("ray"), _file_system(folder)
    path = f"{storage}/trials"
    if tune.Tuner.can_restore(path, storage_filesystem=filesystem):
        listener(Event("note", "", text=f"the search in {folder.url} goes on"))
        return tune.Tuner.restore(path, trainable=runs, restart_errored=True, storage_filesystem=filesystem)
    return tune.Tuner(
        runs,
        param_space={field: to_tune(domain) for field, domain in space.items()},
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
            callbacks=[Watcher(options)],
        ),
    )


def fit(tuner: Any) -> Any:
    """Run Tune."""
    with warnings.catch_warnings():  # a trial that a killed search was at reports once more what the searcher knows
        warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
        return tuner.fit()


def trainable(values: dict[str, Any], objective: Objective) -> None:
    """Run a trial inside one of Tune's workers."""
    from ray import tune

    for report in objective.climb(values):
        tune.report(report | {"rung": objective.tune.keep ** (report["level"] - 1)})


def trial_share(config: DistillConfig) -> dict[str, float]:
    """Return what one trial reserves, as one worker of a run does."""
    import ray

    from ray_jobs.resources import Shares

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    share = Shares.of(config.ray, nodes, config.runtime.device).of_kind("main")
    return {"cpu": share.cpus, "gpu": share.gpus}


def _file_system(folder: Folder) -> Any:
    """Return a folder's file system as pyarrow's, which Tune takes; None for this machine's own."""
    if folder.is_local:
        return None
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return getattr(folder.fs, "fs", None) or PyFileSystem(FSSpecHandler(folder.fs))


def _searcher(objective: Objective, space: dict[str, Domain]) -> Any:
    import optuna
    from ray.tune.search.basic_variant import BasicVariantGenerator
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recipe = {field: value_of(objective.config, field) for field in space}
    first = [recipe] if all(space[field].holds(value) for field, value in recipe.items()) else None
    seed = objective.tune.seed
    if objective.tune.searcher == "random":
        return BasicVariantGenerator(points_to_evaluate=first, random_state=seed)
    return OptunaSearch(metric="score", mode="max", points_to_evaluate=first, seed=seed)


def value_of(config: DistillConfig, field: str) -> Any:
    """Return the value of a dotted option."""
    section, _, name = field.partition(".")
    return getattr(getattr(config, section), name)


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


def to_tune(domain: Domain) -> Any:
    """Return where a field's values come from, in Tune's terms."""
    from ray import tune

    if domain.kind == "choice":
        return tune.choice(list(domain.values))
    if domain.kind == "randint":
        return tune.randint(domain.values[0], domain.values[1] + 1)
    return {"loguniform": tune.loguniform, "uniform": tune.uniform}[domain.kind](*domain.values)
