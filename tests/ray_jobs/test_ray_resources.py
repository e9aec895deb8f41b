"""How many workers fit a cluster."""

import pytest

from ray_jobs.executor import RayExecutor
from ray_jobs.resources import Share, Shares, check_fit, fit_memory
from wmdd.config.distill import DistillConfig, override
from wmdd.config.machines import RayConfig
from wmdd.errors import ConfigError


def shares(*nodes, device="auto", **options):
    return Shares.of(RayConfig(**options), nodes, device)


@pytest.mark.parametrize(
    ("per_worker", "gpus", "workers"),
    [(1.0, 4, 4), (0.5, 2, 4), (0.6, 2, 2), (0.6, 3, 3), (0.34, 2, 4), (1 / 3, 1, 3), (0.1, 1, 10), (2.0, 5, 2)],
)
def test_share_of_a_gpu_never_spans_two(per_worker, gpus, workers):
    assert Share(1.0, per_worker).on({"CPU": 64, "GPU": gpus}) == workers
    assert workers * per_worker <= gpus + 1e-6


@pytest.mark.parametrize(
    ("per_worker", "cpus", "workers"), [(1, 2, 2), (0.5, 2, 4), (0.1, 1, 10), (3, 8, 2), (0.3, 1, 3), (2, 1, 0)]
)
def test_share_counts_cpus(per_worker, cpus, workers):
    assert Share(per_worker, 0.0).on({"CPU": cpus}) == workers


def test_share_never_spans_two_nodes():
    nodes = [{"CPU": 3}, {"CPU": 3}, {}]
    assert shares(*nodes, cpus_per_actor=2).capacity("main", nodes) == 2


def test_share_is_limited_by_what_runs_out_first():
    assert Share(1.0, 1.0).on({"CPU": 3, "GPU": 8}) == 3
    assert Share(1.0, 1.0).on({"CPU": 30, "GPU": 8}) == 8
    assert Share(1.0, 1.0).on({"CPU": 30}) == 0


def test_workers_take_gpus_if_present_and_wanted():
    assert shares({"CPU": 2}).gpu_per_worker == 0
    assert shares({"CPU": 2, "GPU": 0.0}).gpu_per_worker == 0
    assert shares({"CPU": 2}, {"CPU": 2, "GPU": 1}).gpu_per_worker == 1
    assert shares({"CPU": 2, "GPU": 1}, device="cpu").gpu_per_worker == 0
    assert shares({"CPU": 2, "GPU": 1}, gpus_per_actor=0.0).gpu_per_worker == 0


def test_device_cuda_requests_gpus_that_are_missing():
    asked = shares({"CPU": 4}, device="cuda")
    assert asked.gpu_per_worker == 1
    assert asked.capacity("main", [{"CPU": 4}]) == 0


def test_teacher_alone_reserves_free_cpus_of_best_node():
    found = shares({"CPU": 64}, cpus_per_actor=2)
    assert found.of_trainer([({"CPU": 64.0}, 60.0), ({"CPU": 16.0}, 1.5), ({}, 0.0)]) == Share(14.0, 0.0)
    assert found.of_trainer([({"CPU": 4.0}, 4.0)]) == Share(2.0, 0.0), "it waits for its share"
    assert found.of_trainer([]) == Share(2.0, 0.0)


def test_cpu_workers_leave_gpus_and_their_cpus_free():
    nodes = [{"CPU": 10, "GPU": 2}, {"CPU": 3}]
    found = shares(*nodes, cpus_per_actor=2)
    assert found.has_cpu_workers(nodes)
    assert found.capacity("main", nodes) == 2
    assert found.capacity("cpu", nodes) == 3 + 1  # 10 - 2 * 2 CPUs that the GPUs leave, and a node without any
    assert found.of_kind("cpu") == Share(2.0, 0.0)
    assert found.of_kind("main") == Share(2.0, 1.0)


@pytest.mark.parametrize(
    ("node", "cpus"), [({"CPU": 8}, 1), ({"CPU": 8, "GPU": 1}, 8), ({"CPU": 8, "GPU": 4}, 2), ({}, 1)]
)
def test_no_cpu_workers_without_gpus_or_spare_cpus(node, cpus):
    """Else the two kinds would wait for each other's CPUs."""
    assert not shares(node, cpus_per_actor=cpus).has_cpu_workers([node])


@pytest.mark.parametrize(
    ("node", "options", "parts"),
    [
        ({"CPU": 2}, {"actors": 3}, ("ray.actors=3", "only 2", "1 node with 2 CPUs and 0 GPUs", "ask for fewer")),
        ({"CPU": 2}, {"cpus_per_actor": 4}, ("ray.cpus_per_actor=4", "2 CPUs", "ask for less")),
        ({"CPU": 8, "GPU": 1}, {"gpus_per_actor": 2}, ("ray.gpus_per_actor=2", "1 GPUs")),
        ({"CPU": 8, "GPU": 2}, {"gpus_per_actor": 0.6, "actors": 3}, ("ray.actors=3", "only 2")),
        ({}, {}, ("0 CPUs",)),
    ],
)
def test_workers_that_never_fit_are_refused(node, options, parts):
    with pytest.raises(ConfigError) as caught:
        check_fit(RayConfig(**options), shares(node, **options), [node])
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_workers_that_fit_are_not_refused():
    for actors in (0, 1, 8):
        check_fit(RayConfig(actors=actors), shares({"CPU": 8}), [{"CPU": 8}])


GIB = 2**30


@pytest.mark.parametrize(("free", "workers"), [(24, 23), (8, 7), (2.3, 2), (1.5, 1), (0.1, 1)])
def test_memory_bounds_the_workers_and_leaves_one(free, workers):
    assert fit_memory({"CPU": 64, "memory": 0.7 * free * GIB, "object_store_memory": 0.3 * free * GIB})[0] == workers


@pytest.mark.parametrize(
    ("cpus", "owns", "gpu", "limits", "note"),
    [
        (8, True, 0, {"main": 3, "team": 3}, "3 of 8 workers: 3.4 GiB of memory are free"),
        (2, True, 0, {"main": 3, "team": 3}, ""),
        (8, False, 0, {}, ""),
        (8, True, 1, {}, ""),
    ],
)
def test_run_is_limited_by_memory_with_a_note(cpus, owns, gpu, limits, note):
    told = []
    executor = RayExecutor(DistillConfig())
    executor._owns_ray = owns
    nodes = [{"CPU": cpus, "GPU": gpu, "memory": 2.4 * GIB, "object_store_memory": GIB}]
    assert executor._limits(shares(*nodes), nodes, told.append) == limits
    assert [event.text[: len(note)] for event in told] == ([note] if note else [])


@pytest.mark.parametrize(("actors", "workers", "teams"), [(8, 1, 8), (8, 3, 2), (8, 8, 1), (2, 4, 1)])
def test_number_of_workers_limits_teams(actors, workers, teams):
    executor = RayExecutor(override(DistillConfig(), {"ray.actors": actors, "evaluate.workers": workers}))
    assert executor._limits(shares({"CPU": 64}), [{"CPU": 64}], print) == {"main": actors, "team": teams}
