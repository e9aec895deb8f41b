"""The process group of a teacher's training, which listens only on the address by which Ray knows a node.

Ray Train by default lets torch open its store on every interface of a machine, without a token. A cluster on loopback
must stay there, and one of several machines has its private network.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import ray
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

_store: list[dist.TCPStore] = []  # of this process; it ends with the training


@dataclass
class NodeConfig(TorchConfig):  # type: ignore[misc]
    """A process group of torch that listens only on the nodes' addresses."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class by which Ray Train starts the group."""
        return NodeBackend


class NodeBackend(Backend):  # type: ignore[misc]
    """Creates the process group of all workers, and ends it."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: NodeConfig) -> None:
        """Open a store in the first worker, and join it from all workers."""
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        size, timeout_s = len(worker_group), backend_config.timeout_s
        address = worker_group.execute_single(0, _open, size, timeout_s)
        backend = backend_config.backend or ("nccl" if gpus else "gloo")
        run = worker_group.execute_single_async
        ray.get([run(rank, _join, backend, *address, rank, size, timeout_s) for rank in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: NodeConfig) -> None:
        """Leave the group in workers that still live."""
        ray.wait(worker_group.execute_async(_leave), num_returns=len(worker_group), timeout=10)


def _open(size: int, timeout_s: int) -> tuple[str, int]:
    host = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family, backlog=max(128, size))
    except OSError:  # the node does not have the address by which others know it
        listener = socket.create_server(("", 0), family=family, backlog=max(128, size))
    port = listener.getsockname()[1]
    options = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listener.detach()}
    _store[:] = [dist.TCPStore(host, port, size, timeout=timedelta(seconds=timeout_s), **options)]
    return host, port


def _join(backend: str, host: str, port: int, rank: int, size: int, timeout_s: int) -> None:
    address = ray.util.get_node_ip_address()
    for name, parts in psutil.net_if_addrs().items():
        if any(part.address == address for part in parts):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
    timeout = timedelta(seconds=timeout_s)
    store = _store[0] if rank == 0 else dist.TCPStore(host, port, size, is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    _store.clear()
