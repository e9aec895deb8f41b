"""Parts of a cluster are lost for real; the images must be those of an undisturbed run, bit for bit."""

import os
import re
import signal
import subprocess
import time

import psutil
import pytest
from conftest import STAGES, TINY, contents, environment, news, start
from ray_cluster import is_alive

from wmdd.api import distill
from wmdd.config import override, read_config
from wmdd.errors import ConfigError, StageError

pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def workers(node=None):
    """The worker processes of a node, or of all nodes."""
    found = []
    for child in psutil.Process(node).children(recursive=True) if node else psutil.Process().children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::StageActor"):
                found.append(child)
        except psutil.Error:
            continue
    return found


def process_of(event):
    """The id of the process that began a task."""
    return int(re.search(r"process (\d+)", event.node)[1])


@pytest.fixture
def config(tiny_run):
    """The very configuration of the local run, with a worker for each CPU of the two nodes."""
    changes = {"ray.actors": 2, "ray.cpus_per_actor": 2, "ray.speculate": 0}
    return override(read_config(str(tiny_run.run / "config.yaml")), changes)


def ray_run(config, folder, listener=lambda event: None):
    return distill(config, run=f"{folder}/run", store=f"{folder}/store", executor="ray", listener=listener)


def test_killed_worker_in_every_stage_costs_one_task(cluster, config, tiny_run, tmp_path):
    events, struck = [], {}

    def strike(event):
        events.append(event)
        if event.kind == "begin" and event.stage not in struck:
            struck[event.stage] = event.unit
            os.kill(process_of(event), signal.SIGKILL)

    ray_run(config, tmp_path, strike)
    assert set(struck) == set(STAGES)
    retries = [event for event in events if event.kind == "retry"]
    assert {(event.stage, event.unit) for event in retries} == set(struck.items())
    assert all(re.search(r"its worker on .* died .*it starts again", event.text) for event in retries)
    assert contents(tmp_path / "store") == contents(tiny_run.store)
    wait(lambda: not workers())


def test_lost_nodes_and_a_joining_one_change_nothing(cluster, config, tiny_run, tmp_path):
    events, lost, joined = [], [], []

    def node_of(event):
        return next(node for node in cluster.worker_nodes if f"/{node.node_id[:6]} " in event.node)

    def strike(event):
        events.append(event)
        # For a moment, a worker whose node was just killed is still there, and may get a task.
        if event.kind == "begin" and event.stage in {"statistics", "recover"} - {*lost} and is_alive(node_of(event)):
            lost.append(event.stage)
            os.kill(raylet_pid(node_of(event)), signal.SIGKILL)
        elif event.kind == "begin" and event.stage == "barycenter" and not joined:
            joined.append(cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20).node_id)

    ray_run(config, tmp_path, strike)
    assert lost == ["statistics", "recover"]
    assert contents(tmp_path / "store") == contents(tiny_run.store)
    told = [event.text for event in events if event.kind in ("retry", "note")]
    assert any("its node left" in text or "died" in text for text in told), told
    seen = {name for event in events if event.kind == "workers" for name in event.metrics}
    assert any(name.endswith(joined[0][:6]) for name in seen), seen


def raylet_pid(node):
    return node.all_processes["raylet"][0].process.pid


def test_worker_that_hangs_is_given_up(cluster, config, tiny_run, tmp_path):
    events, frozen = [], []

    def freeze(event):
        events.append(event)
        if event.kind == "begin" and event.stage == "barycenter" and not frozen:
            frozen.append((event.unit, process_of(event)))
            os.kill(process_of(event), signal.SIGSTOP)

    ray_run(override(config, {"ray.silence_s": 8.0}), tmp_path, freeze)
    retried = {event.unit: event.text for event in events if event.kind == "retry"}
    assert "gave no news for 8 s" in retried[frozen[0][0]]
    wait(lambda: not psutil.pid_exists(frozen[0][1]))
    assert contents(tmp_path / "store") == contents(tiny_run.store)


def test_node_that_freezes_is_given_up(cluster, config, tiny_run, tmp_path):
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

    try:
        ray_run(config, tmp_path, freeze)
    finally:
        for process in frozen:
            if process.is_running():
                process.kill()
    assert frozen
    assert any(event.kind == "retry" and event.stage == "recover" for event in events)
    assert contents(tmp_path / "store") == contents(tiny_run.store)


def test_task_whose_worker_dies_again_and_again_fails_and_all_else_is_finished(cluster, config, tmp_path):
    killed, done = [], []

    def strike(event):
        if event.kind == "begin" and (event.stage, event.unit) == ("barycenter", "class-00003"):
            os.kill(process_of(event), signal.SIGKILL)
            killed.append(process_of(event))
        if event.kind == "unit":
            done.append((event.stage, event.unit))

    with pytest.raises(StageError) as caught:
        ray_run(override(config, {"ray.attempts": 2, "ray.actors": 1}), tmp_path, strike)
    text = str(caught.value)
    assert "barycenter of class-00003 (3) failed: its worker" in text
    assert "2 times" in text
    assert "all else is finished" in text
    assert len(killed) == 2
    assert sum(stage == "barycenter" for stage, _ in done) == 9
    # Groups of five classes: the one without class 3 is recovered.
    assert [unit for stage, unit in done if stage == "recover"] == [f"class-{number:05d}" for number in range(5, 10)]
    wait(lambda: not workers())


def test_resources_that_no_node_has_are_an_error_and_not_an_endless_wait(cluster, config, tmp_path):
    asked = override(config, {"ray.cpus_per_actor": 64, "ray.start_timeout_s": 3})
    with pytest.raises(ConfigError, match=r"ray\.start_timeout_s=3: no worker could start .*ray\.cpus_per_actor=64"):
        ray_run(asked, tmp_path)
    assert not list((tmp_path / "store").glob("pretrain/*/commit.json"))


def test_killed_driver_leaves_no_worker_and_the_same_command_goes_on(cluster, tiny_run, tmp_path):
    command = ("distill", "digits", *TINY, "--ray.address", cluster.address, "--ray.actors", "1")
    options = {"env": environment(RAY_AUTH_MODE="disabled", RAY_TMPDIR=os.environ["RAY_TMPDIR"])}
    options["env"]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
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


def wait(condition, process=None):
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
