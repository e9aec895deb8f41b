"""How many workers fit a cluster."""

import pytest

from ray_jobs.resources import Share, share_of
from wmdd.config import RayConfig
from wmdd.errors import ConfigError


def share(total, *, wants_gpu=True, **options):
    return share_of(RayConfig(**options), total, wants_gpu=wants_gpu)


@pytest.mark.parametrize(
    ("per_actor", "gpus", "workers"),
    [(1.0, 4, 4), (0.5, 2, 4), (0.6, 2, 2), (0.6, 3, 3), (0.34, 2, 4), (1 / 3, 1, 3), (0.1, 1, 10), (2.0, 5, 2)],
)
def test_share_of_a_gpu_never_spans_two(per_actor, gpus, workers):
    found = share({"CPU": 64, "GPU": gpus}, gpus_per_actor=per_actor)
    assert found == Share(cpus=1.0, gpus=per_actor, workers=workers)
    assert workers * per_actor <= gpus + 1e-6


@pytest.mark.parametrize(
    ("per_actor", "cpus", "workers"), [(1, 2, 2), (0.5, 2, 4), (0.1, 1, 10), (3, 8, 2), (0.3, 1, 3)]
)
def test_share_counts_cpus(per_actor, cpus, workers):
    assert share({"CPU": cpus}, cpus_per_actor=per_actor) == Share(cpus=per_actor, gpus=0.0, workers=workers)


def test_share_is_limited_by_what_runs_out_first():
    assert share({"CPU": 3, "GPU": 8}).workers == 3
    assert share({"CPU": 30, "GPU": 8}).workers == 8


def test_share_takes_no_gpu_where_there_is_none_or_none_is_wanted():
    assert share({"CPU": 2}).gpus == 0
    assert share({"CPU": 2, "GPU": 0.0}).gpus == 0
    assert share({"CPU": 2, "GPU": 1}, wants_gpu=False) == Share(cpus=1.0, gpus=0.0, workers=2)
    assert share({"CPU": 2, "GPU": 1}, gpus_per_actor=0.0) == Share(cpus=1.0, gpus=0.0, workers=2)


def test_share_keeps_the_asked_number_of_workers():
    assert share({"CPU": 8}, actors=3).workers == 3
    assert share({"CPU": 8}, actors=8).workers == 8


@pytest.mark.parametrize(
    ("total", "options", "parts"),
    [
        ({"CPU": 2}, {"actors": 3}, ("ray.actors=3", "only 2")),
        ({"CPU": 2}, {"cpus_per_actor": 4}, ("ray.cpus_per_actor=4", "2 CPUs", "ask for less")),
        ({"CPU": 8, "GPU": 1}, {"gpus_per_actor": 2}, ("ray.gpus_per_actor=2", "1 GPUs")),
        ({"CPU": 8, "GPU": 2}, {"gpus_per_actor": 0.6, "actors": 3}, ("ray.actors=3", "only 2")),
        ({}, {}, ("0 CPUs",)),
    ],
)
def test_share_refuses_what_never_fits(total, options, parts):
    with pytest.raises(ConfigError) as caught:
        share(total, **options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
