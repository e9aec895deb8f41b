"""One command at work: its run folder and store, what it plans, and the run until everything is closed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

from wmdd.config.distill import DistillConfig
from wmdd.engine.events import Event, Listener, both
from wmdd.engine.locations import open_run, open_store, refuse_in_set
from wmdd.engine.metrics_file import MetricsFile
from wmdd.engine.plan import make_plan
from wmdd.engine.run import Executor, run_plans, workers_of
from wmdd.engine.run_folder import SIZES, choose_run, hold
from wmdd.engine.run_start import note_config, note_start
from wmdd.engine.task import Plan
from wmdd.engine.until import cut_or_further
from wmdd.process.home import expand_home
from wmdd.training.teams import check_alone


class Session:
    """What `distill`, `compare`, `rank` and `tune` share, from the choice of a run folder to the end of the run.

    Args:
        command: one of these four.
        config: that the run folder belongs to.
        run, store: URLs that were asked for; None: the default ones.
        listener: called with every event.
        cases: configurations by the names of their folders below the run folder, if it holds several runs.
        options: of the command besides the configuration, if they are not the default ones.

    Raises:
        ConfigError: if a folder cannot be reached, or holds what would be mixed with this run.
    """

    def __init__(
        self,
        command: str,
        config: DistillConfig,
        run: str | None,
        store: str | None,
        listener: Listener,
        *,
        cases: Mapping[str, DistillConfig] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        run, store = (expand_home(url) if url else url for url in (run, store))
        if run:
            open_run(run, command)
        choose = functools.partial(choose_run, config=config, command=command, cases=cases, options=options)
        self.url, note = choose(run)
        refuse_in_set(config, self.url, store)
        self.store = open_store(store, self.url)
        self.folder = open_run(self.url, command)
        self._check = functools.partial(choose, self.url)
        self._config, self._listener = config, listener
        self._skip = () if cases is None else SIZES
        if note:
            self.note(note)

    def note(self, text: str) -> None:
        """Report a line for the user."""
        self._listener(Event("note", "", text=text))

    def plan(
        self,
        configs: Mapping[str, DistillConfig],
        status: Callable[[int, int], None],
        *,
        alone: bool,
        until: str | None = None,
    ) -> dict[str, Plan]:
        """Plan runs by name, and refuse what cannot work before anything is written.

        Args:
            status: called with the images indexed and their total.
            alone: whether one process runs everything, which then cannot train a network with several workers.
            until: name of the stage to end with.

        Raises:
            ConfigError, DataError: one line with option, value and remedy.
        """
        plans = {
            name: cut_or_further(make_plan(config, self.store, status), until, self.store)
            for name, config in configs.items()
        }
        tasks = [
            task for plan in plans.values() for tasks in plan.tasks.values() for task in tasks if workers_of(task) > 1
        ]
        for task in tasks if alone else ():
            if self.store.absent(unit.ref for unit in task.units):
                check_alone(f"{task.stage}.workers", workers_of(task))
        return plans

    def hold(self) -> contextlib.AbstractContextManager[None]:
        """Lock the run folder, and check again whose it is, as `run_folder.hold` does."""
        return hold(self.url, self._check)

    def note_start(self, runs: Mapping[str, Plan]) -> None:
        """Write the configuration into the run folder, and what each run starts with into its own.

        Args:
            runs: by the names of their folders below the run folder; ``""`` is the run folder itself.
        """
        if "" not in runs:
            note_config(self.url, self._config, self._skip)
        for name, plan in runs.items():
            note_start(f"{self.url}/{name}".rstrip("/"), plan, self.store)

    def run(
        self, plans: Mapping[str, Plan], executor: contextlib.AbstractContextManager[Executor], *listeners: Listener
    ) -> None:
        """Run plans as one, with every event in ``metrics.jsonl``, and close the executor in every case.

        Args:
            listeners: called with every event, besides the session's.

        Raises:
            StageError: if a unit failed; all that does not depend on it is saved.
        """
        with executor as workers, contextlib.closing(MetricsFile(self.url)) as metrics:
            run_plans(plans, self.store, workers, both(self._listener, metrics, *listeners))
