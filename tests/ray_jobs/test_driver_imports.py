"""When a run's driver imports torch: before it joins a cluster, and with a temporary Ray not before the report."""

import subprocess
import sys

import pytest
from conftest import environment

pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
pytestmark = pytest.mark.ray

from ray_jobs import connect  # noqa: E402
from ray_jobs.executor import RayExecutor  # noqa: E402
from wmdd.config.distill import DistillConfig, override  # noqa: E402


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
