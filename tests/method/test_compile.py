"""Compiled recovery: how often it is compiled, and what happens where torch cannot compile. torch's plain backend."""

import functools
import logging

import pytest
import torch
import torch.nn.functional as F
from builders import normal
from torch._dynamo.utils import counters

from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.config.machines import RuntimeConfig
from wmdd.config.recovery import RecoverConfig
from wmdd.cpus import CPU_RECOVERY_PIXELS
from wmdd.errors import ConfigError
from wmdd.method.recovery import COMPILING, Recovered, recover_images
from wmdd.models.registry import build_model
from wmdd.runtime import Runtime, compilation
from wmdd.runtime.compilation import GPU_RECOVERY_STEPS, NETWORKS_FROM, NEVER, OFF, ON, Compilation
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
    monkeypatch.setattr(compilation, "_compiler_failures", {})
    torch._dynamo.reset()


def recovered(classes, *, model="convnet2_w16", stem="auto", **changes):
    """Images of the first classes of a new teacher, and the number of graphs compiled until then."""
    teacher = untrained_teacher(model, 16, 4, stem)
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


def test_mixed_views_are_one_graph():
    recovered(2, mix="cutmix")
    before = recovered(2, mix="cutmix")[1]
    assert recovered(2, mix="cutmix", bn_weight=3.0)[1] == before


def test_transport_is_never_compiled():
    before = recovered(2)[1]
    assert recovered(2, feature_loss="transport")[1] == before
    section = RecoverConfig(feature_loss="transport")
    runtime = Runtime(CPU, bf16=False, threads=1, compilation=ON)
    described = runtime.uncompiled(section.uncompiled).describe()
    assert (described["compile"], described["reasons"]["compile"]) == ("nothing", section.uncompiled)
    assert runtime.uncompiled(RecoverConfig().uncompiled) is runtime


def test_each_size_of_group_is_compiled_once():
    first, before = recovered(2)
    assert [recovered(classes)[1] - before for classes in (3, 1, 4, 3, 1)] == [1, 2, 3, 3, 3]
    again, _ = recovered(2)
    assert torch.equal(first, again)


def test_network_with_trimmed_kernels_is_one_graph():
    """Its last layers see one position each. Each further graph would be traced and compiled by itself."""
    compilation.compiler_failure(CPU)  # compiles once
    counters.clear()
    assert recovered(1, model="resnet18", stem="standard", iterations=1)[1] == 1
    assert not counters["graph_break"]


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
    ON.compiled(torch.neg, CPU, deterministic=True)
    assert given[-1] == {
        "dynamic": False,
        "options": {"deterministic": True, "triton.autotune_pointwise": False},
    }
    ON.compiled(torch.neg, CPU, deterministic=False)
    assert given[-1]["options"] == {"deterministic": False, "triton.autotune_pointwise": True}


# Device, setting: the least numbers of steps, and the words of the manifest.
RULES = {
    ("cpu", "auto"): (CPU_RECOVERY_PIXELS, NEVER, "recovery of 100,000,000 pixels or more in all steps"),
    ("cuda", "auto"): (
        GPU_RECOVERY_STEPS,
        NETWORKS_FROM,
        "recovery of 1,500 steps or more, networks that take 20,000 steps or more",
    ),
    ("cpu", "on"): (0, 0, "all"),
    ("cuda", "graphs"): (0, 0, "all, as CUDA graphs"),
    ("cpu", "off"): (NEVER, NEVER, "nothing"),
    ("cuda", "off"): (NEVER, NEVER, "nothing"),
}


@pytest.mark.parametrize(("device", "setting"), RULES)
def test_amount_of_work_decides(monkeypatch, device, setting):
    monkeypatch.setattr(compilation, "_compiler_failures", {"cpu": "", "cuda": ""})
    recovery_from, networks_from, words = RULES[device, setting]
    chosen = Compilation.create(setting, torch.device(device))
    assert (chosen.recovery_from, chosen.networks_from) == (recovery_from, networks_from)
    assert chosen.describe(torch.device(device))[0] == words
    runtime = Runtime(torch.device(device), bf16=False, threads=1, compilation=chosen)
    by_steps = (device, setting) == ("cuda", "auto")
    for work in (0, 1499, 1500, 19_999, 20_000, 10**8 - 1, 10**8, 10**12):
        assert (runtime.network(torch.neg, work) is torch.neg) is (work < networks_from), work
        pixels, steps = (NEVER - 1, work) if by_steps else (work, NEVER - 1)
        assert (runtime.recovery(torch.neg, pixels, steps) is torch.neg) is (work < recovery_from), work


@pytest.mark.parametrize(("parts", "graphs"), [(1, True), (2, None)])
def test_graphs_are_asked_of_torch_for_one_pass_and_need_a_gpu(parts, graphs, monkeypatch):
    """What a graph returns is overwritten by its next pass."""
    given = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: given.append(options) or function)
    runtime = Runtime(CPU, False, 1, compilation=Compilation(0, 0, graphs=True))
    runtime.network(torch.nn.Identity(), 1, parts)
    assert given[-1]["options"].get("triton.cudagraphs") is graphs
    with pytest.raises(ConfigError, match=r"runtime\.compile=graphs: CUDA graphs need a GPU; use auto, on or off"):
        Runtime.create(RuntimeConfig(device="cpu", compile="graphs"))


@pytest.mark.parametrize("counted", ["pixels", "steps"])
def test_all_the_steps_of_recovery_decide_also_in_a_part_of_them(counted):
    """A search that goes on from fewer steps must go on in the same code."""
    teacher, by_steps = untrained_teacher("convnet1_w8", 8, 2), counted == "steps"
    three_steps = 3 if by_steps else 3 * IPC * 8 * 8 * 2
    runtime = Runtime(CPU, False, 1, compilation=Compilation(three_steps, NEVER, by_steps=by_steps))
    targets = random_targets(teacher, IPC)
    compilation.compiler_failure(CPU)  # compiles once
    compilations = []
    for iterations in (2, 3):
        section, before = RecoverConfig(iterations=iterations), counters["stats"]["unique_graphs"]
        first, *_ = recover_images(section, teacher, targets, runtime, steps=1)
        compilations.append(counters["stats"]["unique_graphs"] - before)
        assert (first.note == COMPILING) is (iterations == 3)
    assert compilations == [0, 1]


def no_compiler(function, **options):
    def fail(*arguments):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    return fail


def test_missing_compiler_is_noted_once(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", no_compiler)
    runtime = Runtime(CPU, bf16=False, threads=1, compilation=ON)
    function = functools.partial(max, 3)
    with caplog.at_level(logging.WARNING):
        assert runtime.recovery(function, 2000, 1) is function
        assert runtime.network(function, 2000) is function
    (record,) = caplog.records
    assert "torch cannot compile here (RuntimeError: Failed to find C compiler.)" in record.getMessage()
    assert runtime.describe()["compile"] == "nothing"
    assert "torch cannot compile here (RuntimeError: Failed" in runtime.describe()["reasons"]["compile"]


def test_compile_on_is_refused_without_a_compiler(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(ConfigError, match=r"runtime\.compile=on: torch cannot compile here .*; use auto or off"):
        Runtime.create(RuntimeConfig(device="cpu", compile="on"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]  # the error says it


def test_uncompilable_network_names_a_remedy(monkeypatch):
    def broken(function, **options):
        def fail(*arguments):
            raise torch._dynamo.exc.TorchDynamoException("no lowering for aten.odd")

        return function if function is compilation._next else fail

    monkeypatch.setattr(torch, "compile", broken)
    compiled = ON.compiled(lambda values: values, CPU, deterministic=True)
    with pytest.raises(ConfigError, match=r"runtime\.compile: this network cannot be compiled .*odd\); use off"):
        compiled(torch.zeros(1))


def test_compilation_that_nobody_asked_for_may_fail(monkeypatch, caplog):
    calls = []

    def broken(function, **options):
        def fail(*arguments):
            calls.append(function)
            raise torch._dynamo.exc.TorchDynamoException("the compiler was killed")

        return function if function is compilation._next else fail

    monkeypatch.setattr(torch, "compile", broken)
    runtime = Runtime(CPU, bf16=False, threads=1, compilation=Compilation(0, NEVER, reason="auto"))
    function = runtime.recovery(torch.neg, 1, 1)
    with caplog.at_level(logging.WARNING):
        assert [float(function(torch.ones(()))) for _ in range(2)] == [-1, -1]
    assert len(calls) == len(caplog.records) == 1
    assert runtime.recovery(torch.neg, 1, 1) is torch.neg
    failure = "torch cannot compile here (TorchDynamoException: the compiler was killed)"
    assert runtime.describe()["compile"] == "nothing"
    assert runtime.describe()["reasons"]["compile"] == failure


def trained(chosen):
    """A student's weights after three epochs of two steps, and the number of graphs compiled for them."""
    runtime = Runtime(CPU, bf16=False, threads=1, compilation=chosen)
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
    compilation.compiler_failure(CPU)  # compiles once
    (plain, none), (first, two), (again, no_more) = trained(OFF), trained(ON), trained(ON)
    assert (none, two, no_more) == (0, 2, 0)
    for name, values in plain.items():
        torch.testing.assert_close(first[name], values, rtol=1e-5, atol=1e-6)
        assert torch.equal(first[name], again[name])
