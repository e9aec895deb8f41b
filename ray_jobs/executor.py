"""Runs a plan on a Ray cluster: chooses the kinds of workers, and lets the scheduler run the board on them."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterable, Sequence

from ray_jobs.resources import Node, Shares, check_fit, fit_memory
from wmdd.config.distill import DistillConfig
from wmdd.cpus import compute_cpus
from wmdd.engine.board import Board
from wmdd.engine.events import Event, Listener
from wmdd.engine.run import workers_of
from wmdd.engine.task import StageTask
from wmdd.process.loading import collector_paused
from wmdd.stages import STAGES
from wmdd.storage.store import ArtifactRef, ArtifactStore


class RayExecutor:
    """Runs tasks on actors of a cluster, or of a temporary Ray on this machine.

    Ray starts with the first task, so that a run that finds everything in the store needs no Ray.

    Args:
        config: its sections ray and runtime, and the numbers of workers that train together, are read.
    """

    def __init__(self, config: DistillConfig) -> None:
        self._config = config
        self._connected = self._owns_ray = False

    def run(
        self, tasks: Sequence[StageTask], missing: Iterable[ArtifactRef], store: ArtifactStore, listener: Listener
    ) -> Board:
        """Run all tasks that do not need the output of a failed one; return the board with the failures.

        Raises:
            ConfigError: if the cluster cannot be reached, or cannot hold a worker.
        """
        self.connect()
        import ray

        from ray_jobs.metrics import metered
        from ray_jobs.ray_workers import RayWorkers
        from ray_jobs.scheduler import Scheduler

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        shares = Shares.of(self._config.ray, nodes, self._config.runtime.device)
        if self._owns_ray:
            trainers = {task.stage: workers_of(task) for task in tasks if workers_of(task) > 1}
            check_fit(self._config.ray, shares, nodes, trainers)  # no node will ever join
        probe = f"probe-{uuid.uuid4().hex}"
        store.write_note(probe, b"")
        backend = RayWorkers(self._config, shares, store.url, probe, compute_cpus() if self._owns_ray else 0)
        has_cpu_workers = shares.has_cpu_workers(nodes)
        board = Board(tasks, missing, lambda task: self._queue(task, shares.gpu_per_worker > 0, has_cpu_workers))
        # Workers that share a GPU leave no whole one free, unless all end.
        exclusive_teams = {"team": "team"} if 0 < shares.gpu_per_worker < 1 else {}
        with contextlib.ExitStack() as stack:
            stack.callback(store.drop_note, probe)
            stack.callback(backend.close)
            scheduler = Scheduler(
                backend,
                self._config.ray,
                stack.enter_context(metered(listener, tasks)),
                limits=self._limits(shares, nodes, listener),
                # On a temporary Ray, a main worker that trains a teacher may use all CPUs.
                exclusive={"alone": "main" if self._owns_ray else "alone", "train": "train", **exclusive_teams},
                teams={} if exclusive_teams else {"team": self._config.evaluate.workers},
                early={"cpu"},
                # A teacher that is loaded is there soon; one that is trained would let them wait for hours.
                at_once=("cpu", "main") if self._config.pretrain.checkpoint else (),
                grows=not self._owns_ray,
            )
            stack.callback(scheduler.close)
            scheduler.run(board)
        if self._owns_ray and not board.failures:
            threading.Thread(target=_import_torch, name="import-torch").start()
        return board

    def _limits(self, shares: Shares, nodes: list[Node], listener: Listener) -> dict[str, int]:
        """Return the maximum number of workers by kind; a team has one in any case. Without a limit, return nothing."""
        limit = self._config.ray.actors or self._memory_limit(shares, nodes, listener)
        return {"main": limit, "team": max(1, limit // self._config.evaluate.workers)} if limit else {}

    def _memory_limit(self, shares: Shares, nodes: list[Node], listener: Listener) -> int:
        """Return how many workers this machine's memory holds, with a note if its CPUs hold more; 0 for any number."""
        if not self._owns_ray or shares.gpu_per_worker:
            return 0
        limit, free = fit_memory(nodes[0])
        cpus = shares.capacity("main", nodes)
        if limit < cpus:
            text = f"{limit} of {cpus} workers: {free:.1f} GiB of memory are free, and each takes 1 GiB or more"
            listener(Event("note", "", text=f"{text}; ray.actors sets another number"))
        return limit

    def _queue(self, task: StageTask, has_gpus: bool, has_cpu_workers: bool) -> str:
        if workers_of(task) > 1:
            return "team" if task.stage == "evaluate" else "train"
        if task.stage == "pretrain" and not task.units[0].params.weights:
            # On CPUs a teacher's training uses as many cores as it can: other tasks would only slow it down.
            return "main" if has_gpus else "alone"
        return "cpu" if has_cpu_workers and not STAGES[task.stage].gpu else "main"

    def connect(self) -> None:
        """Join the cluster or start a temporary Ray, as `ray_jobs.connect.connect` does, unless that is done."""
        from ray_jobs.connect import connect

        if self._connected:
            return
        address = self._config.ray.address or os.environ.get("RAY_ADDRESS")
        if address and address != "local":
            # torch, which the report needs, first: nodes that share a machine, as those of a trial cluster, replace a
            # job's current folder as soon as it has joined, and MKL within torch ends a process that has none.
            _import_torch()
        self._owns_ray = connect(address)
        self._connected = True

    def close(self) -> None:
        """Stop Ray if this run started it, else only disconnect."""
        if self._owns_ray:
            import ray

            ray.shutdown()
        self._connected = self._owns_ray = False


def _import_torch() -> None:
    """Import torch, for the report."""
    with collector_paused():
        import wmdd.runtime  # noqa: F401
