"""The scheduler's workers on Ray: actors that stream their events, on nodes that join and leave."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from ray_jobs.actors import StageActor
from ray_jobs.resources import Node, Shares, has
from ray_jobs.workers import Message, last_line
from wmdd.config.distill import DistillConfig
from wmdd.engine.task import StageTask
from wmdd.errors import ConfigError, StageError, StorageError, WmddError
from wmdd.stages import STAGES

NODES_EVERY_S = 1.0
FREED_AFTER_S = 1.0
CLOSE_EVERY_S = 0.1
SNAPSHOTS = "snapshots"  # the group of an actor's calls that run while its task runs
# The scheduler restarts and retries: Ray's own restarts would keep a call on an actor that no node can hold.
NO_RETRIES: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
TRAIN_KINDS = ("train", "team")
CPU_PARTS = 10_000  # the smallest part of a CPU that Ray counts
MARKS = 100  # of the bundles of trainers that may be present together, in parts of a CPU


@dataclass(eq=False)
class _Actor:
    """An actor, and the one call that runs on it: its greeting, or the stream of a task."""

    handle: Any
    call: Any
    task: StageTask | None = None
    node_id: str = ""
    bundle: dict[str, float] | None = None  # that Ray Train reserves for each worker that it starts


class RayWorkers:
    """Actors on the Ray that this process is connected to. See `ray_jobs.workers.Workers`.

    Args:
        store_url: of the store that all workers share.
        probe: name of a note in that store, by which a worker checks that it sees the same store.
        cpus: that a worker may use while it trains a teacher alone; 0: those that it reserved.
    """

    def __init__(self, config: DistillConfig, shares: Shares, store_url: str, probe: str, cpus: int = 0) -> None:
        self._config, self._shares = config, shares
        self._store_url, self._probe, self._cpus = store_url, probe, cpus
        self._actors: dict[int, _Actor] = {}
        self._by_call: dict[Any, int] = {}
        self._numbers = itertools.count()
        self._nodes: dict[str, tuple[str, Node]] = {}
        self._bundles: list[dict[str, float]] = []  # of all trainers so far, the latest one last
        self._terminated_at = self._trainer_terminated_at = -FREED_AFTER_S
        self._nodes_at = -NODES_EVERY_S

    def now(self) -> float:
        return time.monotonic()

    def capacity(self, kind: str) -> int:
        """Return how many workers of a kind the present nodes can hold; one for those whose tasks are exclusive."""
        if kind == "train":
            return 1
        if kind == "team":
            return self._shares.capacity("train", self._resources()) // self._config.evaluate.workers
        capacity = self._shares.capacity(kind, self._resources())
        return min(1, capacity) if kind == "alone" else capacity

    def describe(self) -> str:
        return f"{self._shares} on {has(self._resources())}"

    def start(self, kind: str) -> int:
        """Request an actor; while no node can hold it, the request shows an autoscaler what is needed."""
        number = next(self._numbers)
        bundle = self._next_bundle() if kind in TRAIN_KINDS else None
        handle = self._stage_actor(kind) if bundle is None else self._train_actor(bundle)
        self._actors[number] = _Actor(handle, handle.hello.remote(), bundle=bundle)
        self._by_call[self._actors[number].call] = number
        return number

    def _stage_actor(self, kind: str) -> Any:
        share = self._shares.of_trainer(self._reserved_cpus()) if kind == "alone" else self._shares.of_kind(kind)
        runtime = self._config.runtime.model_dump(mode="json")
        if kind == "cpu":
            runtime["compile"] = "off"  # no stage of these workers compiles, and CUDA graphs need a GPU
        cpus = 0 if share.gpus else self._cpus
        options = {**NO_RETRIES, "num_cpus": share.cpus, "num_gpus": share.gpus}
        actor = ray.remote(concurrency_groups={SNAPSHOTS: 1})(StageActor).options(**options)
        # A CPU worker is started early: POT takes seconds to import, and there is time for it.
        functions = [stage.runs for stage in STAGES.values() if not stage.gpu] if kind == "cpu" else []
        cpus = cpus or max(1, int(share.cpus))
        return actor.remote(self._store_url, runtime, share.gpus > 0, self._probe, cpus, functions)

    def _reserved_cpus(self) -> list[tuple[Node, float]]:
        """Return the resources of each node, and its CPUs that are reserved while this run has no worker."""
        from ray._private.state import available_resources_per_node  # private: nothing else should fail if it moves

        # Ray's head learns with some delay what terminated actors have freed.
        time.sleep(max(0.0, self._terminated_at + FREED_AFTER_S - time.monotonic()))
        self._resources()
        available = available_resources_per_node()
        return [
            (node, node.get("CPU", 0.0) - available.get(node_id, {}).get("CPU", 0.0))
            for node_id, (_, node) in self._nodes.items()
        ]

    def _next_bundle(self) -> dict[str, float]:
        """Return what Ray Train is to reserve for each worker: CPUs, less some ten-thousandths that mark the trainer.

        Ray does not show which reservation is whose. No two present trainers have the same mark, if there are enough;
        the mark of one that is gone returns last, because its reservation may still appear.
        """
        share = self._shares.of_kind("train")
        parts, gpus = max(1, round(share.cpus * CPU_PARTS)), {"GPU": share.gpus} if share.gpus else {}
        bundles = [{"CPU": (parts - mark) / CPU_PARTS, **gpus} for mark in range(min(MARKS, parts))]
        present = [actor.bundle for actor in self._actors.values()]
        unused = (bundle for bundle in bundles if bundle not in self._bundles)
        free = (bundle for bundle in self._bundles if bundle not in present)
        bundle = next(itertools.chain(unused, free, self._bundles))
        self._bundles = [*(other for other in self._bundles if other != bundle), bundle]
        return bundle

    def _train_actor(self, bundle: dict[str, float]) -> Any:
        from ray_jobs.pretrain import TrainActor  # imports torch and Ray Train

        self._remove_reservations()
        config, share = self._config, self._shares.of_kind("train")
        arguments = (config.runtime.model_dump(mode="json"), self._probe, config.ray, share, bundle)
        return ray.remote(TrainActor).options(**NO_RETRIES, num_cpus=0).remote(self._store_url, *arguments)

    def assign(self, worker: int, task: StageTask) -> None:
        actor = self._actors[worker]
        actor.task, actor.call = task, actor.handle.run.options(num_returns="streaming").remote(task)
        self._by_call[actor.call] = worker

    def request_snapshots(self, workers: Collection[int], limit_s: float) -> None:
        actors = [self._actors[worker] for worker in workers if worker in self._actors]
        saves = [actor.handle.save.options(concurrency_group=SNAPSHOTS) for actor in actors if not actor.bundle]
        if saves:
            calls = [save.remote(limit_s) for save in saves]
            ray.wait(calls, num_returns=len(calls), timeout=limit_s, fetch_local=False)

    def terminate(self, worker: int) -> None:
        actor = self._actors.pop(worker, None)
        if actor is not None:
            self._by_call.pop(actor.call, None)
            ray.kill(actor.handle)
            self._terminated_at = time.monotonic()
            if actor.bundle:
                self._trainer_terminated_at = self._terminated_at
                self._remove_reservations()

    def close(self) -> None:
        """Free what trainers that were terminated a moment ago still reserve, after all workers are terminated."""
        while time.monotonic() < self._trainer_terminated_at + FREED_AFTER_S:
            time.sleep(CLOSE_EVERY_S)
            self._remove_reservations()

    def _remove_reservations(self) -> None:
        """Free what train actors that are gone reserved for their workers, which end with them.

        Ray Train keeps its reservation for the whole job when its controller is killed, and frees it by itself only
        where a dashboard runs. As it ends it may make one more, so this is repeated now and then.
        """
        present = [actor.bundle for actor in self._actors.values()]
        gone = [bundle for bundle in self._bundles if bundle not in present]
        job = ray.get_runtime_context().get_job_id()
        for group_id, group in placement_group_table().items() if gone else ():
            first = next(iter(group["bundles"].values()), {})
            is_ours = group_id.endswith(job) and {name: round(amount, 4) for name, amount in first.items()} in gone
            if is_ours and group["state"] != "REMOVED":
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))

    def poll(self, timeout: float) -> list[Message]:
        calls = list(self._by_call)
        if not calls:
            time.sleep(timeout)  # ray.wait would return at once
            return []
        ready, _ = ray.wait(calls, num_returns=1, timeout=timeout, fetch_local=False)
        if ready and len(calls) > 1:
            ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)
        return [self._read(self._by_call[call]) for call in ready]

    def _read(self, worker: int) -> Message:
        actor = self._actors[worker]
        try:
            if actor.task is None:
                del self._by_call[actor.call]
                actor.node_id, pid = ray.get(actor.call)
                return Message(worker, "ready", node=self._name(actor.node_id), pid=pid)
            return Message(worker, "event", event=ray.get(next(actor.call)))
        except StopIteration:
            del self._by_call[actor.call]
            actor.task = None
            return Message(worker, "done")
        except RayTaskError as exc:
            self._by_call.pop(actor.call, None)
            return self._raised(worker, actor, exc)
        except RayError as exc:
            self._by_call.pop(actor.call, None)
            left, name = self._has_left(actor, exc), type(exc).__name__
            # Ray says in the last line why an actor never started (such as a package that its node lacks).
            text = name if actor.node_id else f"{name}: {last_line(exc)[:300]}"
            return Message(worker, "lost", text=text, node_left=left)

    def _raised(self, worker: int, actor: _Actor, exc: Any) -> Message:
        cause = exc.cause
        if actor.task is None:
            # A store that fails for a while is no reason to end a run.
            error = cause if isinstance(cause, WmddError) and not isinstance(cause, StorageError) else None
            return Message(worker, "unfit" if error else "lost", error=error, text=last_line(exc))
        task, actor.task = actor.task, None
        if isinstance(cause, ConfigError):
            return Message(worker, "unfit", error=cause)
        if not isinstance(cause, StageError):
            cause = StageError(task.stage, task.name, last_line(exc), passing=True)
        return Message(worker, "error", error=cause)

    def _has_left(self, actor: _Actor, exc: Any) -> bool:
        self._nodes_at = -NODES_EVERY_S
        self._resources()
        is_gone = bool(actor.node_id) and actor.node_id not in self._nodes
        # A node that dies first shows as a broken connection, before the head has missed its heartbeats.
        return is_gone or isinstance(exc, ActorUnavailableError) or bool(getattr(exc, "preempted", False))

    def _resources(self) -> list[Node]:
        """Return the resources of the nodes, which are asked for once a second at most."""
        if time.monotonic() - self._nodes_at > NODES_EVERY_S:
            self._nodes_at = time.monotonic()
            self._remove_reservations()
            alive = [node for node in ray.nodes() if node["Alive"]]
            shared = collections.Counter(node["NodeManagerAddress"] for node in alive)
            self._nodes = {}
            for node in alive:
                address, node_id = node["NodeManagerAddress"], node["NodeID"]
                name = address if shared[address] == 1 else f"{address}/{node_id[:6]}"
                self._nodes[node_id] = (name, node["Resources"])
        return [resources for _, resources in self._nodes.values()]

    def _name(self, node_id: str) -> str:
        self._resources()
        return self._nodes[node_id][0] if node_id in self._nodes else node_id[:6]
