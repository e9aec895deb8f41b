"""Run a configuration from Python, exactly as the command line does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wmdd.commands.executors import check_executor, open_executor
from wmdd.config.callers import names_arguments
from wmdd.config.distill import DistillConfig
from wmdd.config.recipes import as_config
from wmdd.data.index import DatasetIndex
from wmdd.engine.console import progress_view
from wmdd.engine.events import Listener
from wmdd.engine.plan import plan_from
from wmdd.engine.run import Executor
from wmdd.engine.run_folder import replaced
from wmdd.engine.run_names import located
from wmdd.engine.run_start import find_store, note_start, read_start
from wmdd.engine.session import Session
from wmdd.engine.until import check_until, cut_or_further
from wmdd.errors import ArtifactError
from wmdd.process.home import expand_home
from wmdd.report.scores import brief
from wmdd.report.written import write_once
from wmdd.text import printable


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
        store: URL of the artifact store; default ``store`` next to the run folder.
        executor: ``ray``, ``local``, or an executor, which the caller closes.
        listener: called with every event.
        status: called with the images indexed and their total.
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
    with progress_view(progress, listener, status) as (listener, status):
        session = Session("distill", config, run, store, listener)
        plans = session.plan({"": config}, status, alone=executor == "local", until=until)
        plan = plans[""]
        with session.hold():
            if note := replaced(session.url, {ref.unit: ref.key for ref in plan.refs("evaluate")}):
                session.note(note)
            session.note_start(plans)
            session.run(plans, open_executor(executor, config))
            return RunResult(session.url, write_once(session.url, plan, session.store))


@names_arguments(RUN="url")
def rewrite(url: str, store: str | None = None) -> RunResult:
    """Write a run folder again from its store.

    Args:
        store: URL of the store, if it was moved; default: where it was, or ``store`` next to the run folder.

    Raises:
        ConfigError: if there is no run at `url`, or its store is at neither place.
        ArtifactError: if the run is not finished.
    """
    url = url.rstrip("/")
    start = read_start(url)
    artifacts = find_store(url, start, store)
    index = artifacts.load(start.index, DatasetIndex)
    plan = cut_or_further(plan_from(start.config, index, start.index, weights=start.weights), start.until, artifacts)
    refs = [ref for stage in plan.tasks for ref in plan.refs(stage)]
    absent = artifacts.absent(refs)
    if absent:
        first = next(ref for ref in refs if ref in absent)
        raise ArtifactError(
            f"{url} is not finished: {first.stage} of {first.unit} is missing; the command that began it goes on"
        )
    note_start(url, plan, artifacts)
    from wmdd.report.folder import write_run  # imports torch and matplotlib, for seconds

    return RunResult(expand_home(url), write_run(url, plan, artifacts))
