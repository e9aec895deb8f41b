"""Parts of a cluster are lost for real; the images must be those of an undisturbed run, bit for bit."""

import os
import re
import signal
import urllib.request

import pytest
from conftest import STAGES, contents
from ray_cluster import is_alive
from striking import process_of, ray_run, raylet_pid, runs, store_without, wait, workers

pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")

import ray

from ray_jobs.ray_workers import RayWorkers
from ray_jobs.resources import Shares
from wmdd.config.distill import override
from wmdd.engine.config_file import read_config
from wmdd.errors import ConfigError, StageError

pytestmark = [pytest.mark.ray, pytest.mark.slow]
UNITS = {"statistics": 10, "barycenter": 10, "recover": 10, "evaluate": 6}


@pytest.fixture
def config(tiny_run):
    """The very configuration of the local run, with a worker for each CPU of the two nodes."""
    changes = {"ray.actors": 2, "ray.cpus_per_actor": 2}
    return override(read_config(str(tiny_run.run / "config.yaml")), changes)


def test_killed_worker_in_every_stage_costs_one_task(cluster, config, tiny_run, tmp_path):
    events, struck, checked = [], {}, []

    def strike(event):
        events.append(event)
        if (event.kind, event.stage) == ("end", "evaluate"):  # gauges last as long as the run
            for stage, units in UNITS.items():
                wait(lambda stage=stage, units=units: exported("wmdd_units_done", stage) == units, every_s=1)
                checked.append(stage)
        if event.kind == "begin" and event.stage not in struck:
            struck[event.stage] = event.unit
            os.kill(process_of(event), signal.SIGKILL)

    ray_run(override(config, {"ray.actors": 1}), tmp_path, strike)
    assert set(struck) == set(STAGES)
    assert checked == [*UNITS]
    retries = [event for event in events if event.kind == "retry"]
    assert {(event.stage, event.unit) for event in retries} == set(struck.items())
    assert all(re.search(r"its worker on .* died .*it starts again", event.text) for event in retries)
    assert contents(tmp_path / "store") == contents(tiny_run.store)
    wait(lambda: not workers())
    for stage in STAGES:
        wait(
            lambda stage=stage: exported("wmdd_tasks_retried_total", stage) >= 1, every_s=1
        )  # of all runs of this process


def exported(name, stage):
    """A metric of the run as Ray exports it for its dashboard and for Prometheus."""
    pages = [
        urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=20).read().decode()
        for node in ray.nodes()
        if node["Alive"]
    ]
    found = re.findall(rf'^ray_{name}{{[^}}]*stage="{stage}"[^}}]*}} (\S+)', "\n".join(pages), re.MULTILINE)
    return sum(map(float, found))


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
            # Else this worker may do all that is left, before another has started on the node that joined.
            wait(lambda: not runs(process_of(event)))
        elif event.kind == "begin" and event.stage == "barycenter" and not joined:
            joined.append(cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20).node_id)

    store_without(tiny_run, tmp_path, "statistics", "barycenter", "recover")
    ray_run(config, tmp_path, strike)
    assert lost == ["statistics", "recover"]
    assert contents(tmp_path / "store") == contents(tiny_run.store)
    told = [event.text for event in events if event.kind in ("retry", "note")]
    assert any("its node left" in text or "died" in text for text in told), told
    seen = {name for event in events if event.kind == "workers" for name in event.metrics}
    assert any(name.endswith(joined[0][:6]) for name in seen), seen
    used = {process_of(event) for event in events if event.kind == "begin"}
    wait(lambda: not [pid for pid in used if runs(pid)])


def test_task_that_always_dies_fails_and_others_finish(cluster, config, tiny_run, tmp_path):
    killed, done = [], []

    def strike(event):
        if event.kind == "begin" and (event.stage, event.unit) == ("barycenter", "class-00003"):
            os.kill(process_of(event), signal.SIGKILL)
            killed.append(process_of(event))
        if event.kind == "unit":
            done.append((event.stage, event.unit))

    store_without(tiny_run, tmp_path, "barycenter", "recover")
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


def test_teacher_alone_takes_all_unreserved_cpus(cluster, config, tmp_path):
    class Other:
        def up(self):
            return True

    def reserve():
        actor = ray.remote(Other).options(num_cpus=1, scheduling_strategy="SPREAD").remote()
        return ray.get(actor.up.remote()) and actor

    backend = RayWorkers(config, Shares(1.0, 0.0), str(tmp_path), "probe")
    share = lambda: backend._shares.of_trainer(backend._reserved_cpus()).cpus  # noqa: E731
    wait(lambda: share() == 2)
    others = [reserve(), reserve()]
    wait(lambda: share() == 1)
    for actor in others:
        ray.kill(actor)
    wait(lambda: share() == 2)


def test_resources_that_no_node_has_are_an_error(cluster, config, tmp_path):
    asked = override(config, {"ray.cpus_per_actor": 64, "ray.start_timeout_s": 0.3})
    with pytest.raises(ConfigError, match=r"ray\.start_timeout_s=0\.3: no worker could start .*ray\.cpus_per_actor=64"):
        ray_run(asked, tmp_path)
    assert not list((tmp_path / "store").glob("pretrain/*/commit.json"))
    backend = RayWorkers(asked, Shares(64.0, 0.0), str(tmp_path), "probe")
    # Else the nodes count as busy, and are waited for ten times as long.
    assert [backend.capacity(kind) for kind in ("main", "alone")] == [0, 0]
