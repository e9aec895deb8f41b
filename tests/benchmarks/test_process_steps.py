"""The steps that measure whole processes: what they record, at toy size."""

import pytest

from benchmarks import memory, startup
from benchmarks.steps import STEPS, Setting
from wmdd.stages import STAGES

pytestmark = pytest.mark.slow


def recorded(run, **arguments):
    """Return the figures of a step at toy size."""
    figures = {}
    run(Setting(True, None, None, "", "", on="cpu"), figures.update, **arguments)
    return figures


def test_startup_records_each_way_and_its_imports():
    figures = recorded(startup.run)
    assert set(figures["ways"]) == {"torch", "help", "plan", "second run", "worker"}
    assert all(way["cpu_s"] > 0 for way in figures["ways"].values())
    assert "torch" in figures["imports_ms"]["worker"]
    assert "torch" not in figures["imports_ms"]["plan"]
    # What a worker has imported before a part is no part of it.
    parts = figures["worker_parts_s"]
    assert list(parts) == ["Ray", "modules", "torch", "first task", "SciPy", "scikit-learn", "POT"]
    assert parts["torch"] > max(parts["modules"], parts["first task"])
    on_ray = figures["worker_on_ray"]
    assert on_ray["worker_cpu_s"] > on_ray["bare_cpu_s"] > 0
    assert len(figures["result"].splitlines()) == 3


def test_memory_records_each_stage_and_what_it_imports():
    figures = recorded(memory.run)
    assert set(figures["ways"]) == {memory.TORCH, *STAGES}
    imports = {name: set(way["imports"]) for name, way in figures["ways"].items()}
    assert "ot" in imports.pop("barycenter")
    assert imports.pop("pretrain") <= {"torch._dynamo"}
    # What a worker does not use takes it a second, or hundreds of MiB.
    assert {name: found for name, found in imports.items() if found} == {}


def test_every_step_of_the_cpu_can_be_loaded():
    for step in STEPS["cpu"].values():
        assert callable(step.load()), step.name
