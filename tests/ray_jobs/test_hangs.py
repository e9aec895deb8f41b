"""Workers that share, hang or freeze, and drivers that are killed; the images are those of an undisturbed run."""

import os
import signal
import subprocess

import psutil
import pytest
from conftest import TINY, contents, environment, news, start
from striking import process_of, ray_run, raylet_pid, store_without, wait, workers

from wmdd.config.distill import override
from wmdd.engine.config_file import read_config

pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def config(tiny_run):
    """The very configuration of the local run, with a worker for each CPU of the two nodes."""
    changes = {"ray.actors": 2, "ray.cpus_per_actor": 2}
    return override(read_config(str(tiny_run.run / "config.yaml")), changes)


def test_hanging_worker_is_replaced(cluster, config, tiny_run, tmp_path):
    events, frozen = [], []

    def freeze(event):
        events.append(event)
        if event.kind == "begin" and event.stage == "barycenter" and not frozen:
            frozen.append((event.unit, process_of(event)))
            os.kill(process_of(event), signal.SIGSTOP)

    store_without(tiny_run, tmp_path, "barycenter")
    changes = {"ray.silence_s": 10.0, "ray.attempts": 8, "ray.cpus_per_actor": 0.5}
    result = ray_run(override(config, changes), tmp_path, freeze)
    retried = {event.unit: event.text for event in events if event.kind == "retry"}
    assert "sent no message for 10 s" in retried[frozen[0][0]]
    wait(lambda: not psutil.pid_exists(frozen[0][1]))
    assert contents(tmp_path / "store") == contents(tiny_run.store)
    assert (tmp_path / "run/images.png").read_bytes() == (tiny_run.run / "images.png").read_bytes()
    assert result.metrics["protocol"]["name"] == "wmdd (changed)"


def test_frozen_node_is_replaced(cluster, config, tiny_run, tmp_path):
    events, frozen = [], []

    def freeze(event):
        events.append(event)
        if event.kind == "begin" and event.stage == "recover" and not frozen:
            pid = process_of(event)
            for node in cluster.worker_nodes:
                family = [psutil.Process(raylet_pid(node)), *psutil.Process(raylet_pid(node)).children(recursive=True)]
                if pid in [process.pid for process in family]:
                    frozen.extend(family)
            for process in frozen:
                process.suspend()

    store_without(tiny_run, tmp_path, "recover")
    try:
        ray_run(config, tmp_path, freeze)
    finally:
        for process in frozen:
            if process.is_running():
                process.kill()
    assert frozen
    assert any(event.kind == "retry" and event.stage == "recover" for event in events)
    assert contents(tmp_path / "store") == contents(tiny_run.store)


def test_killed_driver_leaves_no_worker_and_resumes(cluster, tiny_run, tmp_path):
    command = ("distill", "digits", *TINY, "--run", "runs/digits")
    command += ("--ray.address", cluster.address, "--ray.actors", "1")
    options = {"env": environment(RAY_AUTH_MODE="disabled", RAY_TMPDIR=os.environ["RAY_TMPDIR"])}
    options["env"]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    store_without(tiny_run, tmp_path / "runs", "barycenter")
    first = start(tmp_path, *command, **options)
    run = tmp_path / "runs/digits"
    wait(lambda: any(item["kind"] == "unit" and item["stage"] == "barycenter" for item in news(run)), first)
    first.kill()
    first.communicate()
    before = {key: stamp(tmp_path / "runs/store", key) for key in contents(tmp_path / "runs/store")}
    wait(lambda: not workers())
    second = subprocess.CompletedProcess(*finish(start(tmp_path, *command, **options)))
    assert second.returncode == 0, second.stderr
    assert {key: stamp(tmp_path / "runs/store", key) for key in before} == before
    assert contents(tmp_path / "runs/store") == contents(tiny_run.store)
    wait(lambda: not workers())


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.args, process.returncode, out, err


def stamp(store, key):
    stage, folder, _ = key
    return (store / stage / folder / "commit.json").stat().st_mtime_ns
