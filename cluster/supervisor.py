"""The process that runs a trial cluster: ``python -m cluster.supervisor SIZE``.

It starts a head (dashboard and job server, no CPUs) and the nodes, writes the state, and ends all of them on SIGTERM.
All servers listen on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any

from cluster.state import TrialCluster, TrialNode
from wmdd.process.interruptions import accept

STORE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Size:
    """The size of a cluster; port 0 means a free one."""

    nodes: int
    cpus: int
    gpus: int = 0
    port: int = 0
    dashboard_port: int = 8265


def supervise(size: Size) -> None:
    """Run a cluster until SIGTERM or SIGINT."""
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
    head |= {"dashboard_port": size.dashboard_port, "object_store_memory": STORE_BYTES}
    head |= {"gcs_server_port": size.port} if size.port else {}
    head |= {"dashboard_agent_listen_port": None}  # a free one: the usual one may be another cluster's
    # Ray's processes end with this one, even if it is killed.
    cluster = Cluster(initialize_head=True, shutdown_at_exit=True, head_node_args=head)
    share = {"num_cpus": size.cpus, "num_gpus": size.gpus, "object_store_memory": STORE_BYTES}
    nodes = [cluster.head_node, *(cluster.add_node(**share) for _ in range(size.nodes))]
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # Ray has set its handlers by now
        signal.signal(number, lambda *_: ended.set())
    TrialCluster(
        folder=os.environ["RAY_TMPDIR"],
        supervisor=os.getpid(),
        address=cluster.address,
        dashboard=f"http://{cluster.head_node.webui_url}",
        nodes=tuple(TrialNode(node.node_id, node.all_processes["raylet"][0].process.pid) for node in nodes),
    ).save()
    while not ended.wait(0.5):
        _reap(nodes)
    with contextlib.suppress(AssertionError):  # of processes that do not end at once
        cluster.shutdown()


def _reap(nodes: list[Any]) -> None:
    """Reap killed processes: workers outlive a node while its raylet is a zombie."""
    for node in nodes:
        for processes in list(node.all_processes.values()):
            for info in processes:
                info.process.poll()


if __name__ == "__main__":
    accept()
    supervise(Size(**json.loads(sys.argv[1])))
