"""A trial cluster: several Ray nodes on this machine, each a set of processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil

from cluster.processes import end, find
from cluster.state import TrialCluster, adopt, locked, make_token, settings, state_folder
from cluster.supervisor import Size
from wmdd.errors import ConfigError, WmddError
from wmdd.process.temporary import ray_folder, shorten_tmpdir

START_S = 180
Share = tuple[float, float]  # of a node's resource: used, and in all


def up(size: Size) -> TrialCluster:
    """Start a cluster and wait until all its nodes run.

    Raises:
        ConfigError: if one runs already, or a port is taken.
        WmddError: if it does not start; ends with the last line of its log.
    """
    with locked("wmdd cluster up"):
        left = TrialCluster.load()
        if left is not None and left.runs:
            raise ConfigError(f"wmdd cluster up: a cluster runs already at {left.address}; wmdd cluster down ends it")
        for option, port in (("--port", size.port), ("--dashboard-port", size.dashboard_port)):
            _check_port(option, port)
        if left is not None:
            _clear(left)
        make_token()
        started, process = _launch(size)
        try:
            return _wait(process)
        except BaseException:  # also Ctrl-C: no part of a cluster stays
            _clear(started)
            raise


def down() -> int:
    """End the cluster and nothing else; return its number of processes.

    Raises:
        ConfigError: if no cluster was started.
    """
    with locked("wmdd cluster down"):
        trial = TrialCluster.load()
        if trial is None:
            raise ConfigError("wmdd cluster down: no cluster was started here; wmdd cluster up starts one")
        return _clear(trial)


def _clear(trial: TrialCluster) -> int:
    count = end(trial.folder, trial.supervisor)
    shutil.rmtree(trial.folder, ignore_errors=True)
    TrialCluster.forget()
    return count


def _check_port(option: str, port: int) -> None:
    taken = {item.laddr.port for item in psutil.net_connections("tcp") if item.status == psutil.CONN_LISTEN}
    if port and port in taken:
        raise ConfigError(f"{option} {port}: something listens there already; give a free port")


def _launch(size: Size) -> tuple[TrialCluster, subprocess.Popen[bytes]]:
    shorten_tmpdir()
    folder = tempfile.mkdtemp(prefix="wmdd", dir=ray_folder(len("/wmdd12345678")))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= settings() | {"RAY_TMPDIR": folder, "RAY_worker_niceness": "0"}
    # A job's command is `python ...`: here that is the Python that runs this command.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    command = [sys.executable, "-m", "cluster.supervisor", json.dumps(asdict(size))]
    with open(state_folder() / "log", "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    started = TrialCluster(folder, process.pid)
    started.save()
    return started, process


def _wait(process: subprocess.Popen[bytes]) -> TrialCluster:
    limit = time.monotonic() + START_S
    while (trial := TrialCluster.load()) is None or not trial.nodes:
        if process.poll() is not None or time.monotonic() > limit:
            log = state_folder() / "log"
            *_, line = ["", *log.read_text(encoding="utf-8", errors="replace").strip().splitlines()]
            raise WmddError(f"the cluster did not start: {line.strip()} (see {log})")
        time.sleep(0.1)
    return trial


def rows_of(trial: TrialCluster) -> Iterator[tuple[str, str, int, Share | None, Share | None]]:
    """Yield the name of the head and of each node, its state, process, and CPUs and GPUs in Ray; None if unknown."""
    usage = _usage(trial) if trial.runs else {}
    for number, node in enumerate(trial.nodes):
        alive = find(node.pid, trial.folder) is not None
        known = usage.get(node.node_id) if alive else None
        cpus, gpus = (known.get(name, (0.0, 0.0)) if known else None for name in ("CPU", "GPU"))
        yield f"node {number}" if number else "head", "alive" if alive else "dead", node.pid, cpus, gpus


def _usage(trial: TrialCluster) -> dict[str, dict[str, Share]]:
    """Return used and total resources of each node, by its id in Ray."""
    adopt(trial.address)
    with contextlib.suppress(Exception):  # the head may be ending: then only the processes are shown
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(trial.address, timeout=10)
        nodes = [node for node in (*status.active_nodes, *status.idle_nodes) if node.resource_usage]
        return {node.node_id: {u.resource_name: (u.used, u.total) for u in node.resource_usage.usage} for node in nodes}
    return {}
