"""A worker: builds its runtime once, then runs any task of any stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wmdd.config import RuntimeConfig
from wmdd.events import Event
from wmdd.pipeline import run_stage
from wmdd.plan import StageTask
from wmdd.runtime import Runtime
from wmdd.store import ArtifactStore


class StageActor:
    """Runs tasks against a store; keeps the last teacher and index that it loaded, and no other state.

    Args:
        store_url: of the store that all workers share.
        runtime: values of the configuration's runtime section.
        gpu: whether Ray gave this worker a GPU (a worker without one may still see it).
    """

    def __init__(self, store_url: str, runtime: dict[str, Any], gpu: bool) -> None:
        config = RuntimeConfig.model_validate(runtime)
        self._runtime = Runtime.create(config if gpu else config.model_copy(update={"device": "cpu"}))
        self._store = ArtifactStore(store_url)

    def run(self, task: StageTask) -> Iterator[Event]:
        """Run a task, streaming its events to the driver."""
        yield from run_stage(task, self._store, self._runtime)
