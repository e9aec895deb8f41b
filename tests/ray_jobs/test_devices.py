"""Which GPUs a worker on Ray sees, on a cluster that claims two GPUs and has none."""

import json
import subprocess
import sys

import pytest
from conftest import environment

pytestmark = pytest.mark.ray
SCRIPT = """
import json, os, sys
import ray
from ray_jobs.ray_workers import RayWorkers
from ray_jobs.resources import Shares
from wmdd.config.distill import DistillConfig, override

def looks(actor):
    return os.environ.get("CUDA_VISIBLE_DEVICES"), actor._config.device

ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
config = override(DistillConfig(), {"ray.gpus_per_actor": 0.5})
shares = Shares.of(config.ray, [node["Resources"] for node in ray.nodes()], "auto")
backend = RayWorkers(config, shares, sys.argv[1], "probe")
workers = [backend._stage_actor(kind) for kind in ("main", "cpu")]
print(json.dumps(ray.get([worker.__ray_call__.remote(looks) for worker in workers])))
ray.shutdown()
"""


def test_workers_see_their_gpu_and_cpu_workers_none(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=tmp_path,
        env=environment(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # Ray hides no GPU from a worker that asked for none; its runtime is set to the CPU, and does not look for one.
    assert json.loads(done.stdout.splitlines()[-1]) == [["0", "auto"], [None, "cpu"]]
