"""The same recipe under several methods and sizes, on one store: a table that can be compared line by line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wmdd.commands.distill import check_executor, note_config, note_start, open_executor, open_places, refuse_alone
from wmdd.config.base import check_changes, refuse_twice
from wmdd.config.callers import names_arguments
from wmdd.config.distill import DistillConfig
from wmdd.config.methods import methods as all_methods
from wmdd.config.protocols import with_protocol
from wmdd.config.recipes import as_config
from wmdd.config.resolve import resolve
from wmdd.engine.console import both
from wmdd.engine.events import Event
from wmdd.engine.metrics_file import MetricsFile
from wmdd.engine.plan import Plan, make_plan
from wmdd.engine.run import run_plans
from wmdd.engine.run_folder import SIZES, choose_run, hold
from wmdd.engine.run_names import located
from wmdd.errors import ConfigError
from wmdd.report.comparison import cells, write_comparison
from wmdd.report.folder import write_run
from wmdd.storage.folder import Folder
from wmdd.storage.store import ArtifactStore
from wmdd.text import printable, unknown

_CHANGES = '{"wmdd": {"recover.lr": 0.1}}, by method'
_OWN = ("statistics", "barycenter", "recover")  # what a method may do in its own way
_USED = {"random": (), "herding": ("statistics",)}  # of these, where it is not all
Changes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, and the content of its ``compare.json``."""

    url: str
    facts: dict[str, Any]

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.facts["ipc"]))
        rows = "; ".join(f"{method}, {student}: {', '.join(scores)}" for method, student, *scores in cells(self.facts))
        told = f"{self.facts['set']}, {sizes} per class; top-1 in %: {rows}"
        return printable(f"Comparison({told}; in {self.url})")


def cases(
    config: DistillConfig, methods: Sequence[str], ipcs: Sequence[int], changes: Changes
) -> dict[tuple[str, int], DistillConfig]:
    """Give the configuration of every method at every number of images per class.

    Args:
        changes: dotted options of single methods, laid over what the method sets.

    Raises:
        ConfigError: for methods that are unknown or named twice, for changes of methods that are not compared or of
            what all methods share, and for numbers below 1.
    """
    check_changes("changes", changes, _CHANGES)
    for name, options in changes.items():
        check_changes(f"changes={name}", options, _CHANGES)
    for option, given in (("methods", methods), ("ipc", ipcs)):
        names = tuple(map(str, given))
        try:
            refuse_twice(names)
        except ValueError as exc:
            raise ConfigError(f"--{option} {','.join(names)}: {exc}") from exc
    for name in methods:
        if name not in all_methods():
            raise ConfigError(unknown("--methods", name, all_methods(), "method"))
    strange = [name for name in changes if name not in methods]
    if strange:
        raise ConfigError(f"--set {strange[0]}: is not compared; the methods are {', '.join(methods)}")
    for name, options in changes.items():
        shared = [field for field in options if field.partition(".")[0] not in _OWN or field == "barycenter.ipc"]
        if shared:
            raise ConfigError(
                f"--set {name}:{shared[0]}: is the same for all methods of a comparison; give it for all, --{shared[0]}"
            )
        unused = [field for field in options if field.partition(".")[0] not in _USED.get(name, _OWN)]
        if unused:
            raise ConfigError(f"--set {name}:{unused[0]}: {name} does nothing with it; leave it out")
    made, changed = {}, _changed(config)
    for ipc, name in itertools.product(ipcs, methods):
        # Random images are a method of their own here, and a teacher's score is enough for "all data".
        same = {**changed, "barycenter.ipc": ipc, "evaluate.random_real": False}
        made[name, ipc] = resolve(config, name, config.evaluate.protocol, options=same | changes.get(name, {}))
    if not made:
        raise ConfigError("--methods, --ipc: name at least one method and one number of images per class")
    return made


def _changed(config: DistillConfig) -> dict[str, Any]:
    """Give what differs from the named protocol, whose batches and rates may follow the number of images."""
    named = with_protocol(config, config.evaluate.protocol)
    return {
        f"{section}.{field}": getattr(getattr(config, section), field)
        for section in ("relabel", "evaluate")
        for field in type(getattr(config, section)).model_fields
        if getattr(getattr(config, section), field) != getattr(getattr(named, section), field)
    }


@names_arguments(set="changes", ipc="ipcs")
def compare(
    config: DistillConfig | str,
    methods: Sequence[str],
    ipcs: Sequence[int],
    *,
    changes: Changes | None = None,
    run: str | None = None,
    store: str | None = None,
    executor: str = "ray",
    listener: Callable[[Event], None] = lambda event: None,
    status: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Distil and score every case, and write ``compare.json``, ``.md``, ``.tex`` and ``.png``.

    Every case is a run folder below the comparison's (``METHOD-ipc-IPC``), written as soon as the case is scored. All
    share the teacher, the students' seeds and the store, so that an interrupted comparison goes on, and a wider one
    reuses what is there. They run as one: where there is room, one case's students beside another's images.

    Args:
        config: the recipe; each method changes its own few options of it.
        changes: options of single methods, such as ``{"sre2l": {"recover.bn_weight": 1.0}}``.

    Raises:
        ConfigError, DataError: before anything runs.
        StageError: when a unit failed; all others are saved, and the cases that need it not are written.
    """
    check_executor(executor)
    config = located(as_config(config))
    made = cases(config, methods, ipcs, {} if changes is None else changes)
    named = {f"{name}-ipc-{ipc}": case for (name, ipc), case in made.items()}
    url, artifacts = open_places(run, store, config, "compare", listener, cases=named, more=changes)
    lost = _lost(Folder(url), set(made))
    plans = {name: make_plan(case, artifacts, status) for name, case in named.items()}
    refuse_alone(executor, plans.values(), artifacts)
    with hold(url, lambda: choose_run(url, config, "compare", cases=named, more=changes)):
        note_config(url, config, SIZES)
        for name, plan in plans.items():
            note_start(f"{url}/{name}", plan, artifacts)
        if lost:
            text = (
                f"{url} held a comparison with {lost} more: its table is replaced; name them again to have them in it "
            )
            listener(Event("note", "", text=f"{text}(the store has their results)"))
        written = _Written(url, plans, artifacts, listener)
        workers, metrics = open_executor(executor, config), MetricsFile(url)
        try:
            run_plans(plans, artifacts, workers, both(listener, metrics, written))
        finally:
            workers.close()
            metrics.close()
        results = {case: written.folder(name) for case, name in zip(made, plans, strict=True)}
        return Comparison(url, write_comparison(Folder(url), config, results, changes or {}))


def _lost(folder: Folder, made: set[tuple[str, int]]) -> str:
    """Name the cases of an earlier table in a folder that are not to be in the new one."""
    try:
        rows = json.loads(folder.read("compare.json") or b"{}").get("rows", ())
        left = dict.fromkeys((row["method"], int(row["ipc"])) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return ", ".join(f"{method} at {ipc}" for method, ipc in left if (method, ipc) not in made)


class _Written:
    """Writes each case's run folder when its last student is scored."""

    def __init__(
        self, url: str, plans: Mapping[str, Plan], store: ArtifactStore, listener: Callable[[Event], None]
    ) -> None:
        self._url, self._plans, self._store, self._listener = url, plans, store, listener
        absent = store.absent(ref for plan in plans.values() for ref in plan.refs("evaluate"))
        self._left = {
            name: {f"{name}/{ref.unit}" for ref in plan.refs("evaluate") if ref in absent}
            for name, plan in plans.items()
        }
        self._metrics: dict[str, dict[str, Any]] = {}

    def __call__(self, event: Event) -> None:
        if event.kind != "done":
            return
        for name, left in self._left.items():
            left.discard(event.unit)
            # Beside its own students, a case needs those of all data, which another may be training.
            if not left and name not in self._metrics and not self._store.absent(self._plans[name].refs("pretrain")):
                self.folder(name)
                text = f"{name} is scored ({len(self._metrics)} of {len(self._plans)}): {self._url}/{name}"
                self._listener(Event("note", "", text=text))

    def folder(self, name: str) -> dict[str, Any]:
        """Give a case's metrics, writing its run folder if that was not done yet."""
        if name not in self._metrics:
            self._metrics[name] = write_run(f"{self._url}/{name}", self._plans[name], self._store)
        return self._metrics[name]
