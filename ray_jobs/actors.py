"""The actor of a worker: it creates its runtime once, then runs any task of any stage."""

from __future__ import annotations

import os
import pkgutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from wmdd.config.machines import RuntimeConfig
from wmdd.engine.events import Event
from wmdd.engine.run import run_stage
from wmdd.engine.task import StageTask
from wmdd.errors import ConfigError
from wmdd.outputs import save_now
from wmdd.process.interruptions import SAVE_S
from wmdd.process.loading import collector_paused
from wmdd.storage.store import ArtifactStore

WATCH_S = 1.0


def end_with_raylet() -> None:
    """End this process soon after its raylet: Ray does not end the workers of a killed raylet."""
    raylet = os.getppid()

    def watch() -> None:
        while os.getppid() == raylet:
            time.sleep(WATCH_S)
        save_now(SAVE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-raylet").start()


def save_on_sigterm() -> None:
    """Save a snapshot before Ray's handler of SIGTERM ends this process; Slurm signals every process of a step."""
    end = signal.getsignal(signal.SIGTERM)

    def save(number: int, frame: FrameType | None) -> None:
        save_now(SAVE_S)
        if callable(end):
            end(number, frame)

    signal.signal(signal.SIGTERM, save)


def greet(store: ArtifactStore, probe: str) -> tuple[str, int]:
    """Return the ids of this node and process; raise ConfigError if it does not see the driver's note in the store."""
    import ray

    if store.read_note(probe) is None:
        raise ConfigError(
            f"--store {store.url}: node {ray.util.get_node_ip_address()} sees another folder there; "
            "give a folder that all nodes share, or a URL such as s3://BUCKET/store"
        )
    return ray.get_runtime_context().get_node_id(), os.getpid()


class StageActor:
    """Runs tasks; keeps the last teacher and index that it loaded, and no other state.

    Args:
        store_url: of the store that all workers share.
        runtime: values of the configuration's runtime section.
        gpu: whether this worker reserved a GPU (one without may still see it).
        probe: name of a note that the driver wrote to the store.
        cpus: that this worker may use while it trains a teacher; other stages use ``runtime.threads``.
        functions: ``module:function`` of stages whose libraries are imported before the first task.
    """

    def __init__(
        self, store_url: str, runtime: dict[str, Any], gpu: bool, probe: str, cpus: int, functions: Sequence[str] = ()
    ) -> None:
        end_with_raylet()
        save_on_sigterm()
        config = RuntimeConfig.model_validate(runtime)
        self._config = config if gpu else config.model_copy(update={"device": "cpu"})
        self._store = ArtifactStore(store_url)
        self._probe, self._cpus, self._functions = probe, cpus, functions

    def hello(self) -> tuple[str, int]:
        """Prepare for tasks, and return what `greet` does; raise ConfigError if the device is not available."""
        ids = greet(self._store, self._probe)
        with collector_paused():
            from wmdd.runtime import Runtime  # imports torch, which a driver that only starts workers does without

            for function in self._functions:
                pkgutil.resolve_name(function)
        self._runtime = Runtime.create(self._config, self._cpus)
        return ids

    def run(self, task: StageTask) -> Iterator[Event]:
        """Run a task, and stream its events to the driver."""
        yield from run_stage(task, self._store, self._runtime)

    def save(self, limit_s: float) -> None:
        """Wait, while `run` runs, until its task has saved a snapshot, `limit_s` at most."""
        save_now(limit_s)
