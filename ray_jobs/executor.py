"""Runs a plan on a Ray cluster: decides the lanes, and hands the board to a pool of actors."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Sequence

from ray_jobs.resources import Node, Shares, check_fit, fit_memory
from wmdd.config.distill import DistillConfig
from wmdd.cpus import compute_cpus
from wmdd.engine.board import Board
from wmdd.engine.events import Event, Listener
from wmdd.engine.plan import StageTask
from wmdd.engine.run import is_joint
from wmdd.storage.store import ArtifactRef, ArtifactStore

# Work without networks: a GPU would be idle beside it.
CPU_STAGES = frozenset({"barycenter", "select"})


class RayExecutor:
    """Runs tasks on actors of a cluster, or of a Ray of its own on this machine.

    Ray starts with the first task, so that a run that finds everything in the store needs none.

    Args:
        config: its ray, runtime and pretrain sections are read.
    """

    def __init__(self, config: DistillConfig) -> None:
        self._config = config
        self._connected = self._owns_ray = False

    def run(
        self, tasks: Sequence[StageTask], missing: Iterable[ArtifactRef], store: ArtifactStore, listener: Listener
    ) -> Board:
        """Run all tasks that do not need the output of a failed one; give the board with the failures.

        Raises:
            ConfigError: when the cluster cannot be reached, or has no room for a worker.
        """
        self._connect()
        import ray

        from ray_jobs.metrics import metered
        from ray_jobs.ray_workers import RayCrew
        from ray_jobs.scheduler import Pool

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        shares = Shares.of(self._config.ray, nodes, self._config.runtime.device)
        if self._owns_ray:
            trainers = self._config.pretrain.workers if any(is_joint(task) for task in tasks) else 1
            check_fit(self._config.ray, shares, nodes, trainers)  # no node will ever join
        probe = f"probe-{uuid.uuid4().hex}"
        store.write_note(probe, b"")
        crew = RayCrew(self._config, shares, store.url, probe, compute_cpus() if self._owns_ray else 0)
        limits = {"main": self._config.ray.actors or self._limit(shares, nodes, listener)}
        # On a Ray of this run alone, a worker that trains a teacher may use what nobody else does.
        solo = {"alone": "main" if self._owns_ray else "alone", "train": "train"}
        two_lanes = shares.two_lanes(nodes)
        board = Board(tasks, missing, lambda task: self._lane(task, shares.gpu_per_worker > 0, two_lanes))
        with contextlib.ExitStack() as stack:
            stack.callback(store.drop_note, probe)
            tell = stack.enter_context(metered(listener, tasks))
            pool = Pool(
                crew,
                self._config.ray,
                tell,
                limits=limits,
                solo=solo,
                early={"cpu"},
                grows=not self._owns_ray,
            )
            stack.callback(pool.close)
            pool.run(board)
        return board

    def _limit(self, shares: Shares, nodes: list[Node], listener: Listener) -> int:
        """Return how many workers this machine's memory holds, with a note if its CPUs held more; 0 for any number."""
        if not self._owns_ray or shares.gpu_per_worker:
            return 0
        limit, free = fit_memory(nodes[0])
        cpus = shares.room("main", nodes)
        if limit < cpus:
            text = f"{limit} of {cpus} workers: {free:.1f} GiB of memory are free, and each takes 1 GiB or more"
            listener(Event("note", "", text=f"{text}; ray.actors sets another number"))
        return limit

    def _lane(self, task: StageTask, gpu: bool, two_lanes: bool) -> str:
        if is_joint(task):
            return "train"
        if task.stage == "pretrain" and not task.units[0].params["weights"]:
            # On CPUs a teacher's training uses as many cores as pay: beside it all would be slower.
            return "main" if gpu else "alone"
        return "cpu" if two_lanes and task.stage in CPU_STAGES else "main"

    def _connect(self) -> None:
        from ray_jobs.connect import connect

        if not self._connected:
            self._owns_ray = connect(self._config.ray.address or os.environ.get("RAY_ADDRESS"))
            self._connected = True

    def close(self) -> None:
        """Stop Ray if it was started here, else only leave."""
        if self._owns_ray:
            import ray

            ray.shutdown()
        self._connected = self._owns_ray = False
