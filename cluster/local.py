"""A real Ray cluster of several nodes on this machine, each a set of processes, for trying things out.

A supervisor process holds it: ``python -m cluster.local SETTINGS`` starts a head (dashboard and job server, no CPUs)
and the nodes, writes the state, and takes everything down when it is told to end. All servers listen on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from cluster.state import Process, TrialCluster, TrialNode, make_token, settings, state_folder
from wmdd.errors import ConfigError, WmddError

START_S = 180
STORE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Size:
    """What `up` asks for; ports 0 are chosen."""

    nodes: int
    cpus: int
    gpus: int = 0
    port: int = 0
    dashboard_port: int = 8265


def up(size: Size) -> TrialCluster:
    """Start a cluster and wait until all its nodes are there.

    Raises:
        ConfigError: if one runs already, or a port is taken.
        WmddError: if it does not start; ends with the last line of its log.
    """
    running = TrialCluster.load()
    if running is not None and running.runs:
        raise ConfigError(f"wmdd cluster up: a cluster runs already at {running.address}; wmdd cluster down ends it")
    for option, port in (("--port", size.port), ("--dashboard-port", size.dashboard_port)):
        if port and any(item.laddr.port == port for item in psutil.net_connections("tcp") if item.status == "LISTEN"):
            raise ConfigError(f"{option} {port}: something listens there already; give a free port")
    (state_folder() / "state.json").unlink(missing_ok=True)
    make_token()
    folder = tempfile.mkdtemp(prefix="wmdd")  # short: the paths of Ray's sockets are limited to 107 bytes
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= settings() | {"RAY_TMPDIR": folder}
    log = state_folder() / "log"
    command = [sys.executable, "-m", "cluster.local", json.dumps(asdict(size))]
    with open(log, "w") as out:
        supervisor = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    limit = time.monotonic() + START_S
    while (started := TrialCluster.load()) is None:
        if supervisor.poll() is not None or time.monotonic() > limit:
            supervisor.kill()
            shutil.rmtree(folder, ignore_errors=True)
            words = [line for line in log.read_text().splitlines() if line.strip()][-1:]
            raise WmddError(f"the cluster did not start: {' '.join(words)} (see {log})")
        time.sleep(0.1)
    return started


def down() -> int:
    """End the cluster and nothing else; give the number of processes that were left to end.

    Raises:
        ConfigError: if there is none.
    """
    found = TrialCluster.load()
    if found is None:
        raise ConfigError("wmdd cluster down: no cluster was started here; wmdd cluster up starts one")
    supervisor = found.supervisor.find()
    family = {process.pid: process for record in found.processes if (process := record.find()) is not None}
    for process in list(family.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            family.update({child.pid: child for child in process.children(recursive=True)})
    if supervisor is not None:
        supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=30)
        family[supervisor.pid] = supervisor
    _, alive = psutil.wait_procs(family.values(), timeout=10)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=10)
    shutil.rmtree(found.folder, ignore_errors=True)
    (state_folder() / "state.json").unlink(missing_ok=True)
    return len(family)


@dataclass(frozen=True)
class NodeRow:
    """A node as `status` shows it; `state` is what its process says where Ray does not answer."""

    name: str
    state: str
    pid: int
    cpus: float
    gpus: float


def nodes_of(found: TrialCluster) -> list[NodeRow]:
    """List the head and the nodes, with what Ray knows of them."""
    rows = []
    known = _known(found)
    for number, node in enumerate((found.head, *found.nodes)):
        name = f"node {number}" if number else "head"
        resources = known.get(node.node_id, {})
        state = "alive" if node.raylet.find() else "dead"
        rows.append(NodeRow(name, state, node.raylet.pid, resources.get("CPU", 0), resources.get("GPU", 0)))
    return rows


def _known(found: TrialCluster) -> dict[str, dict[str, float]]:
    os.environ.update(settings())
    from ray.util.state import list_nodes

    with contextlib.suppress(Exception):  # the head may be gone: then the processes alone tell
        return {node.node_id: node.resources_total for node in list_nodes(address=found.dashboard, timeout=10)}
    return {}


def supervise(size: Size) -> None:
    """Hold a cluster until SIGTERM or SIGINT."""
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
    head |= {"dashboard_port": size.dashboard_port or None, "object_store_memory": STORE_BYTES}
    head |= {"gcs_server_port": size.port} if size.port else {}
    cluster = Cluster(initialize_head=True, shutdown_at_exit=True, head_node_args=head)
    share = {"num_cpus": size.cpus, "num_gpus": size.gpus, "object_store_memory": STORE_BYTES}
    nodes = tuple(_trial_node(cluster.add_node(**share)) for _ in range(size.nodes))
    TrialCluster(
        address=cluster.address,
        dashboard=f"http://{cluster.head_node.webui_url}",
        folder=os.environ["RAY_TMPDIR"],
        supervisor=Process.of(os.getpid()),
        head=_trial_node(cluster.head_node),
        nodes=nodes,
        processes=tuple(Process.of(child.pid) for child in psutil.Process().children(recursive=True)),
    ).save()
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    signal.sigwait(ends)
    cluster.shutdown()


def _trial_node(node: Any) -> TrialNode:
    return TrialNode(node.node_id, Process.of(node.all_processes["raylet"][0].process.pid))


if __name__ == "__main__":
    supervise(Size(**json.loads(sys.argv[1])))
