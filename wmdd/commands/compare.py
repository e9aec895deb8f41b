"""The same recipe under several methods and sizes, on one store: a table that can be compared line by line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wmdd.commands.executors import check_executor, open_executor
from wmdd.config.base import check_changes, refuse_twice
from wmdd.config.callers import names_arguments
from wmdd.config.cases import REGIMES, Case
from wmdd.config.distill import DistillConfig
from wmdd.config.methods import SELECTING
from wmdd.config.methods import methods as all_methods
from wmdd.config.recipes import as_config
from wmdd.config.resolve import resolve, with_protocol
from wmdd.engine.events import Event, Listener
from wmdd.engine.run_names import located
from wmdd.engine.session import Session
from wmdd.engine.task import Plan
from wmdd.errors import ConfigError
from wmdd.report.comparison import write_comparison
from wmdd.report.comparison_tables import cells, texts_of
from wmdd.report.written import write_once
from wmdd.storage.folder import Folder
from wmdd.text import printable, unknown

_CHANGES = '{"wmdd": {"recover.lr": 0.1}}, by method'
_OWN = ("statistics", "barycenter", "recover")  # what a method may do in its own way
Changes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, and the content of its ``compare.json``."""

    url: str
    facts: dict[str, Any]

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.facts["ipc"]))
        count = texts_of(self.facts)
        rows = "; ".join(f"{', '.join(row[:count])}: {', '.join(row[count:])}" for row in cells(self.facts))
        return printable(f"Comparison({self.facts['set']}, {sizes} per class; top-1 in %: {rows}; in {self.url})")


def cases(
    config: DistillConfig,
    methods: Sequence[str],
    ipcs: Sequence[int],
    changes: Changes,
    regimes: Sequence[str] = (),
    epochs: Sequence[int] = (),
) -> dict[Case, DistillConfig]:
    """Return the configuration of every method at every number of images per class, in every regime, for all epochs.

    Args:
        changes: dotted options of single methods, laid over what the method sets.
        regimes, epochs: as for `compare`.

    Raises:
        ConfigError: for methods and regimes that are unknown or named twice, for changes of methods that are not
            compared or of what all methods share, and for numbers below 1.
    """
    _check_names({"methods": methods, "ipc": ipcs, "regimes": regimes, "epochs": epochs})
    _check_changes(changes, methods)
    # Real images are selected by separate methods here, and a teacher's score is enough for "all data".
    same = {**_changed(config), "evaluate.baselines": (), "evaluate.worth": ()}
    counts: Sequence[int | None] = epochs or [None]
    labels: Sequence[str | None] = regimes or [None]
    axes = itertools.product(counts, labels, ipcs, methods)
    found = [Case(method, ipc, regime, count) for count, regime, ipc, method in axes]
    return {
        case: resolve(
            config,
            case.method,
            config.evaluate.protocol,
            options={**same, **case.options(config), **changes.get(case.method, {})},
        )
        for case in found
    }


def _check_names(axes: Mapping[str, Sequence[Any]]) -> None:
    for option, values in axes.items():
        names = tuple(map(str, values))
        try:
            refuse_twice(names)
        except ValueError as exc:
            raise ConfigError(f"--{option} {','.join(names)}: {exc}") from exc
    for option, known in (("methods", all_methods()), ("regimes", REGIMES)):
        for name in axes[option]:
            if name not in known:
                raise ConfigError(unknown(f"--{option}", name, known, option[:-1]))
    if not (axes["methods"] and axes["ipc"]):
        raise ConfigError("--methods, --ipc: name at least one method and one number of images per class")


def _check_changes(changes: Changes, methods: Sequence[str]) -> None:
    check_changes("changes", changes, _CHANGES)
    for name, options in changes.items():
        check_changes(f"changes={name}", options, _CHANGES)
        if name not in methods:
            raise ConfigError(f"--set {name}: is not compared; the methods are {', '.join(methods)}")
        for field in options:
            section = field.partition(".")[0]
            if section not in _OWN:
                raise ConfigError(
                    f"--set {name}:{field}: is the same for all methods of a comparison; give it for all, --{field}"
                )
            if section not in SELECTING.get(name, _OWN):
                raise ConfigError(f"--set {name}:{field}: {name} does nothing with it; leave it out")


def _changed(config: DistillConfig) -> dict[str, Any]:
    """Return what differs from the named protocol, whose batches and rates may follow the number of images."""
    named = with_protocol(config, config.evaluate.protocol)
    return {
        f"{section}.{field}": value
        for section in ("relabel", "evaluate")
        for field, value in getattr(config, section)
        if value != getattr(getattr(named, section), field)
    }


@names_arguments(set="changes", ipc="ipcs")
def compare(
    config: DistillConfig | str,
    methods: Sequence[str],
    ipcs: Sequence[int],
    *,
    regimes: Sequence[str] = (),
    epochs: Sequence[int] = (),
    changes: Changes | None = None,
    run: str | None = None,
    store: str | None = None,
    executor: str = "ray",
    listener: Listener = lambda event: None,
    status: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Distil and score every case, and write ``compare.json``, ``.md``, ``.tex`` and ``.png``.

    Every case is a run folder below the comparison's (``METHOD-ipc-IPC``, and ``-REGIME`` and ``-epochs-EPOCHS`` if
    these are compared), written as soon as the case is scored. All share the teacher, the students' seeds and the
    store, so that an interrupted comparison goes on, and a wider one reuses what is there. They run as one: students of
    one case are trained while images of another are recovered.

    Args:
        config: the recipe; each method changes its own few options of it.
        regimes: kinds of labels that all methods are compared under, keys of `REGIMES`; none: the configuration's.
        epochs: of labels and students that all methods are compared at; none: the configuration's.
        changes: options of single methods, such as ``{"sre2l": {"recover.bn_weight": 1.0}}``.

    Raises:
        ConfigError, DataError: before anything runs.
        StageError: when a unit failed; all others are saved, and the cases that do not need it are written.
    """
    check_executor(executor)
    config = located(as_config(config))
    changes = {} if changes is None else changes
    configs = cases(config, methods, ipcs, changes, regimes, epochs)
    by_folder = {case.folder: case_config for case, case_config in configs.items()}
    session = Session("compare", config, run, store, listener, cases=by_folder, options=changes)
    dropped = _dropped(session.folder, configs)
    plans = session.plan(by_folder, status, alone=executor == "local")
    with session.hold():
        session.note_start(plans)
        if dropped:
            session.note(
                f"{session.url} held a comparison with {dropped} more: its table is replaced; name them again to have "
                "them in it (the store has their results)"
            )
        folders = _CaseFolders(session, plans)
        session.run(plans, open_executor(executor, config), folders)
        results = {case: folders.write(name) for case, name in zip(configs, plans, strict=True)}
        return Comparison(session.url, write_comparison(session.folder, config, results, changes))


def _dropped(folder: Folder, kept: Collection[Case]) -> str:
    """Return the cases of an earlier table in a folder that are not to be in the new one."""
    try:
        rows = json.loads(folder.read("compare.json") or b"{}").get("rows", ())
        before = {Case(row["method"], int(row["ipc"]), row.get("regime"), row.get("epochs")): None for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return ", ".join(case.text for case in before if case not in kept)


class _CaseFolders:
    """Writes each case's run folder when its last student is scored."""

    def __init__(self, session: Session, plans: Mapping[str, Plan]) -> None:
        self._session = session
        self._plans = plans
        absent = session.store.absent(ref for plan in plans.values() for ref in plan.refs("evaluate"))
        self._missing = {
            name: {f"{name}/{ref.unit}" for ref in plan.refs("evaluate") if ref in absent}
            for name, plan in plans.items()
        }
        self._metrics: dict[str, dict[str, Any]] = {}

    def __call__(self, event: Event) -> None:
        if event.kind != "done":
            return
        for name, missing in self._missing.items():
            missing.discard(event.unit)
            # Besides its students, a case needs those of all data, which another case may be training.
            if missing or name in self._metrics or self._session.store.absent(self._plans[name].refs("pretrain")):
                continue
            self.write(name)
            scored = f"{len(self._metrics)} of {len(self._plans)}"
            self._session.note(f"{name} is scored ({scored}): {self._session.url}/{name}")

    def write(self, name: str) -> dict[str, Any]:
        """Return a case's metrics, and write its run folder if that is not yet done."""
        if name not in self._metrics:
            self._metrics[name] = write_once(f"{self._session.url}/{name}", self._plans[name], self._session.store)
        return self._metrics[name]
