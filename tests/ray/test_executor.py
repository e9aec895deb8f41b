"""The Ray executor, for real: one local Ray per run, equal images from any pool, a killed worker, clear refusals."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ray_jobs.resources import share_of
from wmdd.config import RayConfig
from wmdd.errors import ConfigError

TINY = [
    *("--pretrain.model", "convnet2_w16", "--pretrain.epochs", "3", "--evaluate.students", "convnet2_w16"),
    *("--recover.iterations", "12", "--recover.classes_per_batch", "2", "--relabel.epochs", "4"),
    *("--relabel.epochs_per_block", "2", "--evaluate.seeds", "2", "--evaluate.val_every", "2"),
    *("--runtime.train_threads", "1"),
]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {"COLUMNS": "120"}


def words(*more):
    return [sys.executable, "-m", "wmdd", "distill", "digits", *TINY, *map(str, more)]


def run(folder, *more):
    return subprocess.run(words(*more), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=280)


def contents(folder):
    found = {}
    for path in Path(folder, "runs/store").glob("*/*/commit.json"):
        commit = json.loads(path.read_text())
        files = path.parent / commit["attempt"]
        place = commit["stage"], commit["unit"], path.parent.name
        found[place] = {name: (files / name).read_bytes() for name in commit["files"]}
    return found


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    result = run(folder, "--executor", "local")
    assert result.returncode == 0, result.stderr
    return contents(folder)


@pytest.mark.ray
@pytest.mark.parametrize("actors", [1, 3])
def test_any_number_of_actors_gives_the_keys_and_bytes_of_one_process(local, tmp_path, actors):
    result = run(tmp_path, "--executor", "ray", "--ray.actors", actors, "--ray.cpus_per_actor", 0.25)
    assert result.returncode == 0, result.stderr
    assert "distilled, convnet2_w16" in result.stdout
    assert contents(tmp_path) == local


def workers_of(process):
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "ray::StageActor" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.mark.ray
def test_killed_worker_costs_its_task_and_nothing_else(local, tmp_path):
    more = ("--executor", "ray", "--ray.actors", 2, "--ray.cpus_per_actor", 0.25)
    process = subprocess.Popen(
        words(*more), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics = tmp_path / "runs/digits/metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"kind": "progress"' in metrics.read_text()):
        time.sleep(0.01)
    (worker, *_) = workers_of(process)
    worker.kill()
    family = psutil.Process(process.pid).children(recursive=True)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    retries = [json.loads(line) for line in metrics.read_text().splitlines() if '"retry"' in line]
    assert retries
    assert "a worker died" in retries[0]["text"]
    assert "a worker died" in output
    assert contents(tmp_path) == local
    psutil.wait_procs(family, timeout=30)
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.ray
def test_more_actors_than_fit_are_refused(tmp_path):
    result = run(tmp_path, "--executor", "ray", "--ray.actors", 1000)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("wmdd: ray.actors=1000: only")


def test_share_counts_what_fits():
    assert share_of(RayConfig(), {"CPU": 4.0}, wants_gpu=True).workers == 4
    assert share_of(RayConfig(), {"CPU": 4.0, "GPU": 2.0}, wants_gpu=True).workers == 2
    assert share_of(RayConfig(), {"CPU": 4.0, "GPU": 2.0}, wants_gpu=False).gpus == 0
    assert share_of(RayConfig(gpus_per_actor=0.5), {"CPU": 8.0, "GPU": 2.0}, wants_gpu=True).workers == 4
    assert share_of(RayConfig(gpus_per_actor=0.6), {"CPU": 8.0, "GPU": 2.0}, wants_gpu=True).workers == 2
    assert share_of(RayConfig(actors=1), {"CPU": 4.0}, wants_gpu=True).workers == 1


@pytest.mark.parametrize(
    ("config", "total"),
    [
        (RayConfig(cpus_per_actor=8), {"CPU": 4.0}),
        (RayConfig(gpus_per_actor=4), {"CPU": 4.0, "GPU": 2.0}),
        (RayConfig(actors=5), {"CPU": 4.0}),
    ],
)
def test_share_that_does_not_fit_is_refused(config, total):
    with pytest.raises(ConfigError, match=r"ray\.\w+="):
        share_of(config, total, wants_gpu=True)
