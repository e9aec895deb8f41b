"""Run a configuration from Python, exactly as the command line does."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wmdd.config.callers import names_arguments
from wmdd.config.distill import DistillConfig, from_yaml
from wmdd.config.recipes import as_config
from wmdd.config.sections import PretrainConfig
from wmdd.data.index import DatasetIndex
from wmdd.engine.console import both, progress_view
from wmdd.engine.events import Event, Listener
from wmdd.engine.metrics_file import MetricsFile
from wmdd.engine.plan import Plan, make_plan, plan_from
from wmdd.engine.run import Executor, LocalExecutor, is_joint, run_plan
from wmdd.engine.run_folder import beside, choose_run, default_run, forget_other, hold, refuse_in_set, replaced
from wmdd.engine.run_names import located, portable_yaml
from wmdd.engine.until import check_until, cut_or_further
from wmdd.errors import ArtifactError, ConfigError, StorageError
from wmdd.process.home import expand_home
from wmdd.report.folder import write_run
from wmdd.report.scores import brief
from wmdd.stages.pretrain import check_alone
from wmdd.storage.filesystem import explain, kind, open_fs, read
from wmdd.storage.folder import Folder, absolute_url
from wmdd.storage.store import ArtifactRef, ArtifactStore
from wmdd.text import printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, and the content of its ``metrics.json``."""

    url: str
    metrics: dict[str, Any]

    def __repr__(self) -> str:
        return printable(f"RunResult({brief(self.metrics)}; in {self.url})")


@names_arguments()
def distill(
    config: DistillConfig | str,
    *,
    run: str | None = None,
    store: str | None = None,
    executor: str | Executor = "ray",
    listener: Listener | None = None,
    status: Callable[[int, int], None] | None = None,
    progress: bool | None = None,
    until: str | None = None,
) -> RunResult:
    """Distil a data set and write the run folder; what the store holds already is not computed again.

    Args:
        config: a configuration, or a recipe's name.
        run: URL of the run folder; default ``runs/RECIPE``, with what differs from the recipe in its name.
        store: URL of the artifact store; default ``store`` beside the run folder.
        executor: ``ray``, ``local``, or an executor of your own, which you close yourself.
        listener: told every event.
        status: told images indexed and their total.
        progress: show the progress; default: on a terminal and in a notebook, unless there is a listener.
        until: name of the stage to end with: ``recover`` makes the images, and trains no students. The same call
            without it goes on in the same folder.

    Raises:
        ConfigError, DataError: before anything runs.
        StageError: when a unit failed; all others are saved.
    """
    check_until(until)
    check_executor(executor)
    config = located(as_config(config))
    with contextlib.ExitStack() as stack:
        with progress_view(progress, listener, status) as (told, counted):
            url, artifacts = open_places(run, store, config, "distill", told)
            plan = cut_or_further(make_plan(config, artifacts, counted), until, artifacts)
            refuse_alone(executor, [plan], artifacts)
            stack.enter_context(hold(url, lambda: choose_run(url, config)))
            if note := replaced(url, {ref.unit: ref.key for ref in plan.refs("evaluate")}):
                told(Event("note", "", text=note))
            _run(plan, url, artifacts, executor, told)
        return RunResult(url, write_run(url, plan, artifacts))


def _run(plan: Plan, url: str, artifacts: ArtifactStore, executor: str | Executor, told: Listener) -> None:
    note_start(url, plan, artifacts)
    workers = open_executor(executor, plan.config) if isinstance(executor, str) else executor
    metrics = MetricsFile(url)
    try:
        run_plan(plan, artifacts, workers, both(told, metrics))
    finally:
        if isinstance(executor, str):
            workers.close()
        metrics.close()


def refuse_alone(executor: str | Executor, plans: Iterable[Plan], artifacts: ArtifactStore) -> None:
    """Refuse, before anything is written, a teacher that several workers are to train where there is one process.

    Raises:
        ConfigError: names the option and the executor that can.
    """
    for task in (task for plan in plans for task in plan.tasks["pretrain"]):
        if executor == "local" and is_joint(task) and artifacts.absent(unit.ref for unit in task.units):
            check_alone(PretrainConfig.model_validate(task.section))


@names_arguments(RUN="url")
def rewrite(url: str, store: str | None = None) -> RunResult:
    """Write a run folder again from its store.

    Args:
        store: URL of the store, where it was moved; default: where it was, or ``store`` beside the run folder.

    Raises:
        ConfigError: if there is no run at `url`, or its store is at neither place.
        ArtifactError: if the run is not finished.
    """
    url = url.rstrip("/")
    facts, config = _read_start(url)
    ref = ArtifactRef("index", "index", facts["index"])
    artifacts = _find_store(url, [store] if store else [beside(url), str(facts["store"])], ref)
    plan = plan_from(config, artifacts.load(ref, DatasetIndex), ref, weights=facts["weights"])
    plan = cut_or_further(plan, facts["until"], artifacts)
    refs = [ref for stage in plan.tasks for ref in plan.refs(stage)]
    absent = artifacts.absent(refs)
    if absent:
        first = next(ref for ref in refs if ref in absent)
        raise ArtifactError(
            f"{url} is not finished: {first.stage} of {first.unit} is missing; the command that began it goes on"
        )
    note_start(url, plan, artifacts)
    return RunResult(expand_home(url), write_run(url, plan, artifacts))


def _read_start(url: str) -> tuple[dict[str, Any], DistillConfig]:
    """Read what `note_start` left in a run folder."""
    try:
        fs, root = open_fs(url)
        noted = read(fs, f"{root}/run.json")
        written = read(fs, f"{root}/config.yaml").decode()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise no_run(url) from exc
    except (OSError, EOFError) as exc:
        raise StorageError(f"RUN {url}: cannot be read {explain(exc)}") from exc
    try:
        facts = json.loads(noted)
        found = {"store": str(facts["store"]), "index": str(facts["index"]), "weights": facts.get("weights")}
        found["until"] = facts.get("until")
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"RUN {url}: run.json is damaged; the same wmdd distill writes it again") from exc
    try:
        return found, from_yaml(written)
    except ConfigError as exc:
        raise ConfigError(f"RUN {url}: config.yaml: {exc}; the same wmdd distill writes it again") from exc


def no_run(url: str) -> ConfigError:
    """Return the error for a folder that holds no run."""
    fs, root = open_fs(url.rstrip("/"))
    if kind(fs, f"{root}/compare.json"):
        return ConfigError(f"RUN {url}: holds a comparison; give a case of it, such as {url}/wmdd-ipc-1")
    return ConfigError(f"RUN {url}: holds no run (run.json); give the folder of wmdd distill --run")


def _find_store(url: str, places: list[str], index: ArtifactRef) -> ArtifactStore:
    """Open the first store that holds a run's index."""
    for place in dict.fromkeys(places):
        try:
            artifacts = ArtifactStore(place)
            if index in artifacts:
                return artifacts
        except (ConfigError, StorageError) as exc:
            if len(places) == 1:
                raise
            logger.info("no store at %s: %s", place, exc)  # on another machine, or for another user
    shown = " nor at ".join(dict.fromkeys(map(absolute_url, places)))
    raise ConfigError(f"RUN {url}: its store is not at {shown}; give its place, --store URL")


def open_places(
    run: str | None,
    store: str | None,
    config: DistillConfig,
    command: str,
    listener: Listener,
    *,
    cases: Mapping[str, DistillConfig] | None = None,
    more: Mapping[str, Any] | None = None,
) -> tuple[str, ArtifactStore]:
    """Choose a command's run folder and open its store; the listener is told where a default folder was taken.

    Args:
        cases, more: as for `wmdd.engine.run_folder.choose_run`.

    Raises:
        ConfigError: if one of them cannot be reached, or the folder holds what would be mixed with this run.
    """
    run, store = (expand_home(url) if url else url for url in (run, store))
    if run:
        open_run(run, _MARKS[command])
    url, note = choose_run(run, config, command, cases=cases, more=more)
    refuse_in_set(config, url, store)
    artifacts = open_store(store, url)
    open_run(url, _MARKS[command])
    if note:
        listener(Event("note", "", text=note))
    return url, artifacts


def open_folder(option: str, url: str) -> Folder:
    """Open a folder, new or old, for what an option names.

    Raises:
        ConfigError: naming option and URL, if it cannot be reached or is a file.
    """
    if url.startswith(("http:", "https:")):
        raise ConfigError(f"{option} {url}: web servers cannot be written to; give a folder, s3://, gs:// or sftp://")
    if url.startswith(("zip:", "tar:", "libarchive:")):
        raise ConfigError(f"{option} {url}: archives are read only; give a folder, s3://, gs:// or sftp://")
    try:
        folder = Folder(url)
        is_file = kind(folder.fs, folder.root) == "file"
    except ConfigError as exc:
        raise ConfigError(f"{option} {exc}") from exc
    except (OSError, EOFError) as exc:
        raise ConfigError(f"{option} {url}: cannot be reached {explain(exc)}") from exc
    if is_file:
        raise ConfigError(f"{option} {url}: is a file; give a folder, new or old")
    return folder


def open_store(store: str | None, run: str) -> ArtifactStore:
    """Open the store that was asked for, or the one beside a run folder, which is then named in what is refused.

    Raises:
        ConfigError: as `open_folder` does.
    """
    option, url = ("--store", store) if store else (f"--run {run}: its store", beside(run))
    return ArtifactStore(open_folder(option, url).url, option)


_HOLDS = {
    "run.json": "a run of wmdd distill",
    "compare.json": "a comparison of wmdd compare",
    "ranking.json": "a ranking of wmdd rank",
    "tune.json": "a search of wmdd tune",
}


_MARKS = {"distill": "run.json", "compare": "compare.json", "rank": "ranking.json", "tune": "tune.json"}


def open_run(url: str, mark: str) -> Folder:
    """Open a run folder for one command; `mark` is the file that tells its folders from those of others.

    Raises:
        ConfigError: if it cannot be reached, or holds another command's work, which would be mixed with this one's.
    """
    folder = open_folder("--run", url)
    for file, what in _HOLDS.items():
        if file != mark and folder.read(file) is not None:
            raise ConfigError(f"--run {url}: holds {what}, and would hold parts of both; give another folder")
    return folder


def note_start(url: str, plan: Plan, store: ArtifactStore) -> None:
    """Leave configuration and store in the run folder at once, so that a killed run can be told apart and reported."""
    note_config(url, plan.config)
    facts = {"schema": 1, "store": store.url, "index": plan.index_ref.key, "weights": plan.weights}
    facts |= {"until": plan.until} if plan.until else {}
    notes = Folder(url)
    notes.write("run.json", json.dumps(facts, indent=1).encode())


def note_config(url: str, config: DistillConfig, skip: Collection[str] = ()) -> None:
    """Write a run folder's configuration before its work.

    Args:
        skip: options that several runs of the folder have differently.

    Raises:
        ConfigError: if nothing can be written there.
    """
    folder = open_folder("--run", url)
    try:
        forget_other(folder, config, skip)
        folder.write("config.yaml", portable_yaml(config).encode())
    except StorageError as exc:
        raise ConfigError(f"--run {url}: cannot be written {explain(exc.__cause__ or exc)}") from exc


def check_executor(executor: str | Executor) -> None:
    """Refuse what is neither an executor nor the name of one.

    Raises:
        ConfigError: lists the names.
    """
    if executor not in ("ray", "local") if isinstance(executor, str) else not hasattr(executor, "run"):
        raise ConfigError(f"--executor {executor}: choose ray or local")


def open_executor(choice: str, config: DistillConfig) -> Executor:
    """Open what runs the work, ``ray`` or ``local``; to be closed at the end.

    Raises:
        ConfigError: for another name.
    """
    check_executor(choice)
    if choice == "local":
        return LocalExecutor(config.runtime)
    from ray_jobs.executor import RayExecutor

    workers: Executor = RayExecutor(config)
    return workers


__all__ = ["Event", "RunResult", "beside", "default_run", "distill", "rewrite"]
