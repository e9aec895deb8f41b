"""When a run's driver imports torch: before it joins a cluster, or when the tasks on a temporary Ray are done."""

import contextlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from conftest import environment

pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
pytestmark = pytest.mark.ray

from ray_jobs import connect  # noqa: E402
from ray_jobs.executor import RayExecutor  # noqa: E402
from wmdd.config.distill import DistillConfig, override  # noqa: E402
from wmdd.errors import StageError  # noqa: E402
from wmdd.storage.store import ArtifactStore  # noqa: E402


@pytest.mark.parametrize(
    ("options", "address", "first"),
    [
        ({}, None, "connects"),
        ({}, "127.0.0.1:6379", "imports"),
        ({"ray.address": "auto"}, None, "imports"),
    ],
)
def test_driver_imports_torch_before_it_joins_a_cluster(options, address, first, monkeypatch):
    steps = []
    monkeypatch.setattr(connect, "connect", lambda address: steps.append("connects"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setitem(sys.modules, "wmdd.runtime", None)  # its import fails
    try:
        RayExecutor(override(DistillConfig(), options)).connect()
    except ModuleNotFoundError:
        steps.append("imports")
    assert steps == [first]


def test_driver_starts_workers_without_torch():
    code = "import sys, ray_jobs.executor, ray_jobs.ray_workers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), timeout=240).returncode == 0


@pytest.mark.parametrize(
    ("owns_ray", "failures", "imports"),
    [(True, [], ["imports"]), (True, [StageError("statistics", "class-00000", "cause")], []), (False, [], [])],
    ids=["temporary Ray", "without a report", "cluster"],
)
def test_torch_is_imported_for_the_report_when_the_tasks_on_a_temporary_ray_are_done(
    owns_ray, failures, imports, tmp_path, monkeypatch
):
    executor, steps = RayExecutor(DistillConfig()), []
    executor._owns_ray, executor._connected = owns_ray, True
    node = {"Alive": True, "Resources": {"CPU": 1.0, "memory": 2**34}}
    monkeypatch.setattr("ray.nodes", lambda: [node])
    # It asks Ray for its address, which would start one in this process.
    monkeypatch.setattr("ray_jobs.metrics.metered", lambda listener, tasks: contextlib.nullcontext(listener))
    scheduler = SimpleNamespace(run=lambda board: board.failures.extend(failures), close=lambda: None)
    monkeypatch.setattr("ray_jobs.scheduler.Scheduler", lambda *_, **__: scheduler)
    monkeypatch.setattr("ray_jobs.executor._import_torch", lambda: steps.append("imports"))
    executor.run([], [], ArtifactStore(str(tmp_path)), steps.append)
    for thread in threading.enumerate():
        if thread.name == "import-torch":
            thread.join()
    assert steps == imports
