"""The same recipe under several methods and sizes, on one store: a table that can be compared line by line."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wmdd.api import beside, distill, open_executor
from wmdd.config import DistillConfig, override
from wmdd.errors import ConfigError
from wmdd.events import Event
from wmdd.methods import with_method
from wmdd.protocols import is_exact, with_protocol
from wmdd.report.comparison import write_comparison

Changes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, and the content of its ``compare.json``."""

    url: str
    facts: dict[str, Any]


def cases(
    config: DistillConfig, methods: Sequence[str], ipcs: Sequence[int], changes: Changes
) -> dict[tuple[str, int], DistillConfig]:
    """Give the configuration of every method at every number of images per class.

    Args:
        changes: dotted options of single methods, laid over what the method sets.

    Raises:
        ConfigError: for unknown methods, for changes of methods that are not compared, and for numbers below 1.
    """
    strange = [name for name in changes if name not in methods]
    if strange:
        raise ConfigError(f"--set {strange[0]}: is not compared; the methods are {', '.join(methods)}")
    found = {}
    for ipc, name in itertools.product(dict.fromkeys(ipcs), dict.fromkeys(methods)):
        # Random images are a method of their own here, and a teacher's score is enough for "all data".
        shared = {"barycenter.ipc": ipc, "evaluate.random_real": False}
        sized = override(config, shared)
        if is_exact(config):  # batches and rates of some protocols depend on the number of images
            val_every = {"evaluate.val_every": config.evaluate.val_every}
            sized = override(with_protocol(sized, config.evaluate.protocol), val_every)
        found[name, ipc] = override(with_method(sized, name), changes.get(name, {}))
    if not found:
        raise ConfigError("--methods, --ipc: name at least one method and one number of images per class")
    return found


def compare(
    config: DistillConfig,
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

    Every case is a run folder below the comparison's (``METHOD-ipc-IPC``). All share the teacher, the students' seeds
    and the store, so that an interrupted comparison goes on, and a wider one reuses what is there.

    Args:
        config: the recipe; each method changes its own few options of it.
        changes: options of single methods, such as ``{"sre2l": {"recover.bn_weight": 1.0}}``.

    Raises:
        ConfigError, DataError: before anything runs.
        StageError: when a unit failed; all others of its case are saved.
    """
    url = (run or f"runs/{config.recipe}-compare").rstrip("/")
    made = cases(config, methods, ipcs, changes or {})
    workers, results = open_executor(executor, config), {}
    try:
        for number, ((name, ipc), case) in enumerate(made.items(), start=1):
            text = f"{number} of {len(made)}: {name}, {ipc} image{'s' if ipc > 1 else ''} per class"
            listener(Event("note", "", text=text))
            folder = f"{url}/{name}-ipc-{ipc}"
            done = distill(
                case, run=folder, store=store or beside(url), executor=workers, listener=listener, status=status
            )
            results[name, ipc] = done.metrics
    finally:
        workers.close()
    return Comparison(url, write_comparison(url, config, results))
