"""Compiled recovery: how often it is compiled, and what happens where torch cannot compile. torch's plain backend."""

import functools
import logging

import pytest
import torch
import torch.nn.functional as F
from builders import normal
from torch._dynamo.utils import counters

from benchmarks.untrained import random_targets, untrained_teacher
from wmdd import runtime as runtimes
from wmdd.config.machines import RuntimeConfig
from wmdd.config.recovery import RecoverConfig
from wmdd.errors import ConfigError
from wmdd.method.recovery import Recovered, recover_images
from wmdd.models.registry import build_model
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.training.trainer import Trainer

CPU = torch.device("cpu")
IPC = 2
compile_for_real = torch.compile


@pytest.fixture(autouse=True)
def without_inductor(monkeypatch):
    """Trace as ever, and run what was traced as it is: seconds are spent on code generation alone."""

    def traced(function, *, dynamic, options=None):
        return compile_for_real(function, dynamic=dynamic, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    monkeypatch.setattr(runtimes, "_compiler_failures", {})
    torch._dynamo.reset()


def recovered(classes, *, seed=0, **changes):
    """Images of the first classes of a new teacher, and the number of graphs compiled until then."""
    teacher = untrained_teacher("convnet2_w16", 16, 4)
    section = RecoverConfig(**({"iterations": 2, "roll_px": 2} | changes))
    runtime = Runtime.create(RuntimeConfig(device="cpu", precision="fp32", compile="on"))
    runtime.enter()
    events = recover_images(section, teacher, random_targets(teacher, IPC)[:classes], runtime)
    images = next(event.images for event in events if isinstance(event, Recovered))
    return images, counters["stats"]["unique_graphs"]


def test_groups_teachers_and_weights_share_a_graph():
    _, before = recovered(2)
    assert before > 0
    assert recovered(2)[1] == before
    for weight in (1.0, 3.0, 30.0):
        assert recovered(2, bn_weight=weight, feature_weight=weight, ce_weight=weight)[1] == before


def test_each_size_of_group_is_compiled_once():
    first, before = recovered(2)
    assert [recovered(classes)[1] - before for classes in (3, 1, 4, 3, 1)] == [1, 2, 3, 3, 3]
    again, _ = recovered(2)
    assert torch.equal(first, again)


def test_torchs_limit_of_compilations_is_raised():
    with torch._dynamo.config.patch(recompile_limit=2):
        counts = [recovered(classes)[1] for classes in (1, 2, 3, 4)]
    assert counts == list(range(counts[0], counts[0] + 4))


def test_nothing_is_chosen_by_timing(monkeypatch):
    """What these options leave to a clock would differ between two runs; torch itself refuses unknown ones."""
    given = []

    def spy(function, **options):
        given.append(options)
        return compile_for_real(function, **options) if "options" in options else function

    monkeypatch.setattr(torch, "compile", spy)
    Runtime(CPU, bf16=False, compile=True, threads=1).maybe_compile(torch.neg)
    assert given[-1] == {
        "dynamic": False,
        "options": {"deterministic": True, "triton.autotune_pointwise": False},
    }
    Runtime(CPU, bf16=False, compile=True, threads=1, deterministic=False).maybe_compile(torch.neg)
    assert given[-1]["options"] == {"deterministic": False, "triton.autotune_pointwise": True}


def no_compiler(function, **options):
    def fail(*arguments):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    return fail


def test_missing_compiler_is_noted_once(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", no_compiler)
    runtime = Runtime(CPU, bf16=False, compile=True, threads=1)
    function = functools.partial(max, 3)
    with caplog.at_level(logging.WARNING):
        assert runtime.maybe_compile(function) is function
        assert runtime.maybe_compile(function) is function
    (record,) = caplog.records
    assert "torch cannot compile here (RuntimeError: Failed to find C compiler.)" in record.getMessage()
    assert runtime.describe()["compile"] is False
    assert "torch cannot compile here (RuntimeError: Failed" in runtime.describe()["reasons"]["compile"]


def test_compile_on_is_refused_without_a_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(ConfigError, match=r"runtime\.compile=on: torch cannot compile here .*; use auto or off"):
        Runtime.create(RuntimeConfig(device="cpu", compile="on"))


def test_uncompilable_network_names_a_remedy(monkeypatch):
    def broken(function, **options):
        def fail(*arguments):
            raise torch._dynamo.exc.TorchDynamoException("no lowering for aten.odd")

        return function if function is runtimes._next else fail

    monkeypatch.setattr(torch, "compile", broken)
    compiled = Runtime(CPU, bf16=False, compile=True, threads=1).maybe_compile(lambda values: values)
    with pytest.raises(ConfigError, match=r"runtime\.compile: this network cannot be compiled .*odd\); use off"):
        compiled(torch.zeros(1))


def trained(compile_networks):
    """A student's weights after three epochs of two steps, and the number of graphs compiled for them."""
    runtime = Runtime(CPU, bf16=False, compile=True, threads=1, compile_networks=compile_networks)
    with SeedTree(1).scoped():
        network = runtime.place(build_model("convnet2_w16", 4, 16))
    before = counters["stats"]["unique_graphs"]
    trainer = Trainer(
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.01),
        schedule=lambda step: 0.01,
        batches=lambda epoch: [(normal(size, 3, 16, 16, seed=epoch), torch.arange(size) % 4) for size in (6, 4)],
        loss=F.cross_entropy,
        validate=lambda network: 0.5,
        epochs=3,
        steps_per_epoch=2,
        runtime=runtime,
        seeds=SeedTree(0),
    )
    list(trainer.run())
    return network.state_dict(), counters["stats"]["unique_graphs"] - before


def test_networks_that_train_are_compiled_on_request_once_for_each_size_of_batch():
    runtimes.compiler_failure(CPU)  # compiles once
    (plain, none), (first, two), (again, no_more) = trained(False), trained(True), trained(True)
    assert (none, two, no_more) == (0, 2, 0)
    for name, values in plain.items():
        torch.testing.assert_close(first[name], values, rtol=1e-5, atol=1e-6)
        assert torch.equal(first[name], again[name])
