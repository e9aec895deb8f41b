"""What one worker reserves of a cluster, and how many workers fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from wmdd.config.machines import RayConfig
from wmdd.errors import ConfigError

Node = dict[str, float]
# Measured with a cgroup's limit on two cores: Ray's own processes, and a worker with small networks and images.
RAY_BYTES = 0.25 * 2**30
WORKER_BYTES = 2**30
NO_TRAINERS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs that one worker reserves."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")

    def on(self, node: Node) -> int:
        """Return how many fit on a node; a fraction of a GPU never spans two."""
        by_cpu = int(node.get("CPU", 0) / self.cpus + 1e-9)
        if not self.gpus:
            return by_cpu
        gpus = node.get("GPU", 0)
        by_gpu = int(gpus) * int(1 / self.gpus + 1e-9) if self.gpus <= 1 else int(gpus / self.gpus + 1e-9)
        return min(by_cpu, by_gpu)


@dataclass(frozen=True)
class Shares:
    """The kinds of workers: `main` for networks, `cpu` for what needs no GPU where `main` has one.

    Args:
        gpu_per_worker: GPUs of a main worker; 0 on a cluster without any, unless the run insists on them.
    """

    cpus_per_worker: float
    gpu_per_worker: float

    def __str__(self) -> str:
        return f"ray.cpus_per_actor={self.cpus_per_worker:g}, ray.gpus_per_actor={self.gpu_per_worker:g}"

    @staticmethod
    def of(config: RayConfig, nodes: Iterable[Node], device: str) -> Shares:
        """Choose CPUs or GPUs; with ``device=cuda`` a run waits for GPUs that no node has yet."""
        with_gpu = device == "cuda" or (device != "cpu" and any(node.get("GPU", 0) for node in nodes))
        return Shares(config.cpus_per_actor, config.gpus_per_actor if with_gpu else 0.0)

    def has_cpu_workers(self, nodes: Iterable[Node]) -> bool:
        """Whether work without networks gets workers without a GPU: if those with a GPU leave CPUs for them."""
        return self.gpu_per_worker > 0 and self.capacity("cpu", nodes) > 0

    def of_kind(self, kind: str) -> Share:
        """Return what a worker reserves; workers that train together never share a GPU, which NCCL forbids."""
        if kind == "train":
            return Share(self.cpus_per_worker, float(math.ceil(self.gpu_per_worker)))
        return Share(self.cpus_per_worker, self.gpu_per_worker if kind == "main" else 0.0)

    def of_trainer(self, nodes: Iterable[tuple[Node, float]]) -> Share:
        """Return what a worker reserves that trains a teacher alone on CPUs: all free CPUs of one node.

        Args:
            nodes: resources of each, and the CPUs of it that are reserved.
        """
        free = max((int(node.get("CPU", 0) - reserved + 1e-9) for node, reserved in nodes), default=0)
        return Share(max(self.cpus_per_worker, float(free)), 0.0)

    def capacity(self, kind: str, nodes: Iterable[Node]) -> int:
        """Return how many workers of a kind fit on the nodes; CPU workers take what the main ones leave."""
        main, share = self.of_kind("main"), self.of_kind(kind)
        if kind == "cpu":
            nodes = (node | {"CPU": node.get("CPU", 0) - main.on(node) * main.cpus} for node in nodes)
        return sum(map(share.on, nodes))


def check_fit(config: RayConfig, shares: Shares, nodes: list[Node], trainers: Mapping[str, int] = NO_TRAINERS) -> None:
    """Refuse workers that this machine can never hold.

    Args:
        trainers: number of workers that train a network together, by the stage that trains it.

    Raises:
        ConfigError: naming what was requested and what there is.
    """
    fit = shares.capacity("main", nodes)
    if fit < 1:
        raise ConfigError(f"{shares}: no worker fits {has(nodes)}; ask for less")
    if config.actors > fit:
        raise ConfigError(f"ray.actors={config.actors}: only {fit} fit {has(nodes)}; ask for fewer, or smaller ones")
    for stage, workers in trainers.items():
        if workers > 1 and shares.capacity("train", nodes) < workers:
            each = shares.of_kind("train")
            raise ConfigError(
                f"{stage}.workers={workers}: each takes {each}, which {has(nodes)} cannot hold; ask for fewer"
            )


def fit_memory(node: Node) -> tuple[int, float]:
    """Return how many workers a node's free memory holds, at least one, and that memory in GiB.

    Args:
        node: Ray's resources of it; its object store, which takes next to nothing here, is a part of what was free.
    """
    free = node.get("memory", 0.0) + node.get("object_store_memory", 0.0)
    return max(1, int((free - RAY_BYTES) / WORKER_BYTES)), free / 2**30


def has(nodes: list[Node]) -> str:
    """Return what the nodes have together."""
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} with {cpus:g} CPUs and {gpus:g} GPUs"
