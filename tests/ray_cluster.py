"""A plugin: one Ray cluster of three nodes for all Ray tests; what a test breaks is healed for the next."""

import atexit
import os
import shutil
import tempfile
import time

import psutil
import pytest

# Before Ray is imported, and inherited by every process it starts. The folder is short, for sockets' paths are limited.
TMP = tempfile.mkdtemp(prefix="rt")
atexit.register(shutil.rmtree, TMP, ignore_errors=True)
os.environ.update(
    RAY_TMPDIR=TMP,
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # every server binds to loopback
    RAY_DEDUP_LOGS="0",
    RAY_prestart_worker_first_driver="0",  # idle Pythons would take the cores that the tests need
    RAY_enable_worker_prestart="0",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    RAY_TRAIN_ENABLE_PRINT_PATCH="0",
    RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",  # a process for each start of a group; no node tells here that it leaves
    OMP_NUM_THREADS="1",
)
os.environ.pop("RAY_ADDRESS", None)

HEALTH = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
REPORTS = {"metrics_report_interval_ms": 3000}  # a gauge lasts two of them, longer than REFRESH_S of ray_jobs.metrics
SMALL = {"object_store_memory": 80 * 2**20}
HEAD = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, "include_log_monitor": False, **SMALL}
NODE = {"num_cpus": 2, **SMALL}
NODES = 2


@pytest.fixture(scope="session")
def ray_cluster():
    """A head without CPUs and two nodes of two CPUs; the test's process is connected to it as a driver."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**HEAD, "_system_config": {**HEALTH, **REPORTS}})
    for _ in range(NODES):
        cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False, namespace="wmdd-tests")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def cluster(ray_cluster):
    """The session's cluster, with its two nodes whatever the test before did to them."""
    import ray

    limit = time.monotonic() + 120
    while True:
        alive = [node for node in ray_cluster.worker_nodes if is_alive(node)]
        for node in [*(node for node in ray_cluster.worker_nodes if node not in alive), *alive[NODES:]]:
            ray_cluster.remove_node(node, allow_graceful=False)
        while len(ray_cluster.worker_nodes) < NODES:
            ray_cluster.add_node(wait=False, **NODE)
        known = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        if known == sorted([ray_cluster.head_node.node_id, *(node.node_id for node in ray_cluster.worker_nodes)]):
            return ray_cluster
        assert time.monotonic() < limit, f"the cluster does not heal: {known}"
        time.sleep(0.2)


def raylet(node):
    """The process of a node's raylet."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def is_alive(node):
    """Whether a node's raylet runs (and is not stopped)."""
    try:
        return raylet(node).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False
