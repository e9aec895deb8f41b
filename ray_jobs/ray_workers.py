"""The pool's workers on Ray: actors that stream their events, on nodes that come and go."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ray_jobs.actors import StageActor
from ray_jobs.resources import Node, Shares, asked, has
from ray_jobs.workers import News
from wmdd.config.distill import DistillConfig
from wmdd.engine.plan import StageTask
from wmdd.errors import ConfigError, StageError, StorageError, WmddError

NODES_EVERY_S = 1.0
GIVEN_BACK_S = 1.0
BESIDE = "beside"  # Ray's name for a thread of an actor, in which it can save while it runs a task
# The pool restarts and retries: Ray's own restarts would hold a call on an actor that cannot be placed.
NO_RETRIES: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}


@dataclass(eq=False)
class _Hand:
    """An actor, and the one call that is under way on it: its greeting, or the stream of a task."""

    actor: Any
    call: Any
    task: StageTask | None = None
    node_id: str = ""
    trains: bool = False


class RayCrew:
    """Actors of the Ray that this process is connected to. See `ray_jobs.workers.Crew`.

    Args:
        store_url: of the store that all workers share.
        probe: name of a note in that store, by which a worker tells that it sees the same store.
        cpus: that a worker may use while it trains a teacher and no other is there; 0 for those that it reserved.
    """

    def __init__(self, config: DistillConfig, shares: Shares, store_url: str, probe: str, cpus: int = 0) -> None:
        self._config, self._shares, self._store_url, self._probe = config, shares, store_url, probe
        self._cpus = cpus
        self._hands: dict[int, _Hand] = {}
        self._by_call: dict[Any, int] = {}
        self._numbers = itertools.count()
        self._nodes: dict[str, tuple[str, Node]] = {}
        self._trained = False
        self._dismissed = -GIVEN_BACK_S
        self._looked = -NODES_EVERY_S

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def room(self, lane: str) -> int:
        """Count the workers of a lane that the nodes there are can hold; the teacher's trainers come alone."""
        if lane == "train":
            return 1
        fit = self._shares.room(lane, self._resources())
        return min(1, fit) if lane == "alone" else fit

    def describe(self) -> str:
        """Say what a worker asks for and what there is."""
        return f"{asked(self._shares)} on {has(self._resources())}"

    def hire(self, lane: str) -> int:
        """Ask Ray for an actor; while it fits nowhere, the request tells the autoscaler what is wanted."""
        number, trains = next(self._numbers), lane == "train"
        handle = self._trainer() if trains else self._stage_actor(lane)
        self._hands[number] = _Hand(handle, handle.hello.remote(), trains=trains)
        self._by_call[self._hands[number].call] = number
        return number

    def _stage_actor(self, lane: str) -> Any:
        import ray

        share = self._shares.of_trainer(self._left_by_others()) if lane == "alone" else self._shares.of_lane(lane)
        runtime = self._config.runtime.model_dump(mode="json")
        cpus = 0 if share.gpus else self._cpus
        options = {**NO_RETRIES, "num_cpus": share.cpus, "num_gpus": share.gpus}
        actor = ray.remote(concurrency_groups={BESIDE: 1})(StageActor).options(**options)
        return actor.remote(self._store_url, runtime, share.gpus > 0, self._probe, cpus or max(1, int(share.cpus)))

    def _left_by_others(self) -> list[tuple[Node, float]]:
        """Return the resources of each node, and the CPUs of it that are reserved while this run has no worker."""
        from ray._private.state import available_resources_per_node

        # Ray's head hears with some delay what the actors that were killed for this one give back.
        time.sleep(max(0.0, self._dismissed + GIVEN_BACK_S - time.monotonic()))
        self._resources()
        available = available_resources_per_node()
        return [
            (node, node.get("CPU", 0.0) - available.get(node_id, {}).get("CPU", 0.0))
            for node_id, (_, node) in self._nodes.items()
        ]

    def _trainer(self) -> Any:
        import ray

        from ray_jobs.pretrain import TrainActor  # imports torch and Ray Train

        self._free_places()
        self._trained = True
        config, share = self._config, self._shares.of_lane("train")
        arguments = (config.runtime.model_dump(mode="json"), self._probe, config.ray, config.pretrain.workers, share)
        return ray.remote(TrainActor).options(**NO_RETRIES, num_cpus=0).remote(self._store_url, *arguments)

    def give(self, worker: int, task: StageTask) -> None:
        """Start a task on an actor; its events come one by one."""
        hand = self._hands[worker]
        hand.task, hand.call = task, hand.actor.run.options(num_returns="streaming").remote(task)
        self._by_call[hand.call] = worker

    def save(self, workers: Collection[int], limit_s: float) -> None:
        """Ask actors that run a task for a snapshot, and wait for those that need no longer."""
        import ray

        hands = [self._hands[worker] for worker in workers if worker in self._hands]
        calls = [hand.actor.save.options(concurrency_group=BESIDE).remote(limit_s) for hand in hands if not hand.trains]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=limit_s, fetch_local=False)

    def dismiss(self, worker: int) -> None:
        """Kill an actor."""
        import ray

        hand = self._hands.pop(worker, None)
        if hand is not None:
            self._by_call.pop(hand.call, None)
            ray.kill(hand.actor)
            self._dismissed = time.monotonic()
            if hand.trains:
                self._free_places()

    def _free_places(self) -> None:
        """Give back what trainers that are gone reserved for their workers, who end with it.

        Ray Train keeps its reservation for the whole job when its controller is killed, and frees it by itself only
        where a dashboard runs. As it ends it may make one more, so this is done again now and then.
        """
        import ray
        from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

        share, workers = self._shares.of_lane("train"), self._config.pretrain.workers
        place = {name: amount for name, amount in (("CPU", share.cpus), ("GPU", share.gpus)) if amount}
        job = ray.get_runtime_context().get_job_id()
        for name, facts in placement_group_table().items():
            own = name.endswith(job) and list(facts["bundles"].values()) == [place] * workers
            if own and facts["state"] != "REMOVED":
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))

    def hear(self, timeout: float) -> list[News]:
        """Wait for the next news, and take what else is there."""
        import ray

        calls = list(self._by_call)
        if not calls:
            time.sleep(timeout)  # ray.wait would return at once
            return []
        ready, _ = ray.wait(calls, num_returns=1, timeout=timeout, fetch_local=False)
        if ready and len(calls) > 1:
            ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)
        return [self._read(self._by_call[call]) for call in ready]

    def _read(self, worker: int) -> News:
        import ray
        from ray.exceptions import RayError, RayTaskError

        hand = self._hands[worker]
        try:
            if hand.task is None:
                del self._by_call[hand.call]
                hand.node_id, pid = ray.get(hand.call)
                return News(worker, "up", node=self._name(hand.node_id), pid=pid)
            return News(worker, "event", event=ray.get(next(hand.call)))
        except StopIteration:
            del self._by_call[hand.call]
            hand.task = None
            return News(worker, "done")
        except RayTaskError as exc:
            self._by_call.pop(hand.call, None)
            return self._raised(worker, hand, exc)
        except RayError as exc:
            self._by_call.pop(hand.call, None)
            left, name = self._has_left(hand, exc), type(exc).__name__
            # Ray tells why an actor never came up (a package that its node lacks) in the last line.
            text = name if hand.node_id else f"{name}: {_line(exc)[:300]}"
            return News(worker, "lost", text=text, node_left=left)

    def _raised(self, worker: int, hand: _Hand, exc: Any) -> News:
        cause = exc.cause
        if hand.task is None:
            # A store that fails for a while is no reason to end a run.
            error = cause if isinstance(cause, WmddError) and not isinstance(cause, StorageError) else None
            return News(worker, "unfit" if error else "lost", error=error, text=_line(exc))
        task, hand.task = hand.task, None
        if isinstance(cause, ConfigError):
            return News(worker, "unfit", error=cause)
        if not isinstance(cause, StageError):
            cause = StageError(task.stage, task.name, _line(exc), passing=True)
        return News(worker, "error", error=cause)

    def _has_left(self, hand: _Hand, exc: Any) -> bool:
        from ray.exceptions import ActorUnavailableError

        self._looked = -NODES_EVERY_S
        self._resources()
        gone = bool(hand.node_id) and hand.node_id not in self._nodes
        # A node that dies is first seen as a broken connection, before the head has missed its heartbeats.
        return gone or isinstance(exc, ActorUnavailableError) or bool(getattr(exc, "preempted", False))

    def _resources(self) -> list[Node]:
        import ray

        if time.monotonic() - self._looked > NODES_EVERY_S:
            self._looked = time.monotonic()
            if self._trained and not any(hand.trains for hand in self._hands.values()):
                self._free_places()
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


def _line(exc: Exception) -> str:
    lines = [line for line in str(exc).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(exc).__name__
