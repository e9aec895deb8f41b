"""A worker: builds its runtime once, then runs any task of any stage."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from wmdd.config.sections import RuntimeConfig
from wmdd.engine.events import Event
from wmdd.engine.plan import StageTask
from wmdd.engine.run import run_stage
from wmdd.errors import ConfigError
from wmdd.outputs import save_now
from wmdd.process.interruptions import SAVE_S
from wmdd.runtime import Runtime
from wmdd.storage.store import ArtifactStore

WATCH_S = 1.0


def end_with_raylet() -> None:
    """End this process soon after the one that started it: Ray leaves the workers of a killed raylet as they are."""
    raylet = os.getppid()

    def watch() -> None:
        while os.getppid() == raylet:
            time.sleep(WATCH_S)
        save_now(SAVE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-raylet").start()


def save_on_sigterm() -> None:
    """Leave a snapshot before SIGTERM ends this process as Ray has it; Slurm sends it to every process of a step."""
    end = signal.getsignal(signal.SIGTERM)

    def save(number: int, frame: FrameType | None) -> None:
        save_now(SAVE_S)
        if callable(end):
            end(number, frame)

    signal.signal(signal.SIGTERM, save)


def greet(store: ArtifactStore, probe: str) -> tuple[str, int]:
    """See that this process has the driver's store; give the id of its node, and that of the process.

    Args:
        probe: name of a note that the driver left in the store.

    Raises:
        ConfigError: if the store here is another one.
    """
    import ray

    if store.read_note(probe) is None:
        raise ConfigError(
            f"--store {store.url}: node {ray.util.get_node_ip_address()} sees another folder there; "
            "give a folder that all nodes share, or a URL such as s3://BUCKET/store"
        )
    return ray.get_runtime_context().get_node_id(), os.getpid()


class StageActor:
    """Runs tasks against a store; keeps the last teacher and index that it loaded, and no other state.

    Args:
        store_url: of the store that all workers share.
        runtime: values of the configuration's runtime section.
        gpu: whether Ray gave this worker a GPU (a worker without one may still see it).
        probe: name of a note that the driver left in the store.
        cpus: that this worker may use while it trains a teacher; nothing else takes more than ``runtime.threads``.
    """

    def __init__(self, store_url: str, runtime: dict[str, Any], gpu: bool, probe: str, cpus: int) -> None:
        end_with_raylet()
        save_on_sigterm()
        config = RuntimeConfig.model_validate(runtime)
        self._config = config if gpu else config.model_copy(update={"device": "cpu"})
        self._store = ArtifactStore(store_url)
        self._probe, self._cpus = probe, cpus

    def hello(self) -> tuple[str, int]:
        """Get ready; give the id of the node that this worker is on, and that of its process.

        Raises:
            ConfigError: if the store here is not the driver's, or the device is not to be had.
        """
        place = greet(self._store, self._probe)
        self._runtime = Runtime.create(self._config, self._cpus)
        return place

    def run(self, task: StageTask) -> Iterator[Event]:
        """Run a task, streaming its events to the driver."""
        yield from run_stage(task, self._store, self._runtime)

    def save(self, limit_s: float) -> None:
        """Wait, beside `run`, until its task has left a snapshot, if that takes no longer than this."""
        save_now(limit_s)
