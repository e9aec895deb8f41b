"""Metrics of a run for Ray's dashboard and Prometheus, counted in the driver, which outlives its workers."""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from wmdd.engine.events import Event, Listener, both
from wmdd.engine.task import StageTask

# Ray drops a gauge that was not set for two of its reports, 20 s; a unit can take hours.
REFRESH_S = 5.0


@contextlib.contextmanager
def metered(listener: Listener, tasks: Iterable[StageTask] = ()) -> Iterator[Listener]:
    """Return a listener that also updates Ray's metrics, while the context lasts.

    A worker that dies may have saved a unit without reporting it; so a task that is done counts all of its units.

    By stage: gauges ``ray_wmdd_units_done`` and ``ray_wmdd_tasks_running``, counters ``ray_wmdd_tasks_retried_total``
    and ``ray_wmdd_tasks_failed_total``, histogram ``ray_wmdd_unit_seconds``; by node: gauge ``ray_wmdd_workers``.
    """
    numbers, ended = _Numbers(tasks), threading.Event()

    def refresh() -> None:
        while not ended.wait(REFRESH_S):
            numbers.show()

    thread = threading.Thread(target=refresh, daemon=True, name="ray-metrics")
    thread.start()
    try:
        yield both(numbers, listener)
    finally:
        ended.set()
        thread.join()


@functools.cache
def _instruments(_session: str) -> SimpleNamespace:
    """Make the metrics of this process once: a second metric of the same name would show nothing."""
    from ray.util.metrics import Counter, Gauge, Histogram

    stage, bounds = ("stage",), [0.1, 1, 10, 60, 300, 1800, 7200]
    return SimpleNamespace(
        done=Gauge("wmdd_units_done", "Units of the stage that are saved", tag_keys=stage),
        running=Gauge("wmdd_tasks_running", "Tasks that run", tag_keys=stage),
        retried=Counter("wmdd_tasks_retried", "Tasks that were retried", tag_keys=stage),
        failed=Counter("wmdd_tasks_failed", "Tasks that failed finally", tag_keys=stage),
        workers=Gauge("wmdd_workers", "Workers that are ready", tag_keys=("node",)),
        seconds=Histogram("wmdd_unit_seconds", "Seconds per unit", boundaries=bounds, tag_keys=stage),
    )


class _Numbers:
    def __init__(self, tasks: Iterable[StageTask]) -> None:
        import ray

        self._show = _instruments(ray.get_runtime_context().gcs_address)
        self._units = {(task.stage, task.name): [task.prefix + unit.ref.unit for unit in task.units] for task in tasks}
        self._saved = collections.defaultdict[str, set[str]](set)
        self._tasks = collections.defaultdict[str, set[str]](set)
        self._nodes: set[str] = set()
        self._gauges: dict[tuple[Any, str, str], float] = {}

    def show(self) -> None:
        """Set every gauge again."""
        for (gauge, key, name), value in list(self._gauges.items()):
            gauge.set(value, {key: name})

    def _set(self, gauge: Any, value: float, key: str, name: str) -> None:
        self._gauges[gauge, key, name] = value
        gauge.set(value, {key: name})

    def __call__(self, event: Event) -> None:
        if event.kind == "workers":
            for node in self._nodes | set(event.metrics):
                self._set(self._show.workers, event.metrics.get(node, 0), "node", node)
            self._nodes |= set(event.metrics)
        if not event.stage:
            return
        tags = {"stage": event.stage}
        tasks, saved = self._tasks[event.stage], self._saved[event.stage]
        if event.kind in ("unit", "done"):
            saved.update([event.unit] if event.kind == "unit" else self._units.get((event.stage, event.unit), ()))
            self._set(self._show.done, len(saved), "stage", event.stage)
        if event.kind == "unit":
            self._show.seconds.observe(event.metrics.get("seconds", 0.0), tags)
        elif event.kind in ("begin", "done", "retry", "failed"):
            (tasks.add if event.kind == "begin" else tasks.discard)(event.unit)
            self._set(self._show.running, len(tasks), "stage", event.stage)
            if event.kind == "retry":
                self._show.retried.inc(1, tags)
            elif event.kind == "failed":
                self._show.failed.inc(1, tags)
