"""The estimate of a run's cost: what is counted against what a run does, and how it is shown."""

import collections
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from digits import changed

import wmdd
from wmdd.cli.main import cli
from wmdd.engine.cost import cost_of
from wmdd.engine.work import Workload
from wmdd.models.convnet import ConvNet
from wmdd.stages import Stage

SMALL = {
    "data__per_class": 30,
    "ipc": 2,
    "pretrain__epochs": 3,
    "pretrain__batch_size": 16,
    "pretrain__ema": 0.5,
    "recover__iterations": 4,
    "relabel__epochs": 5,
    "relabel__batch_size": 8,
    "relabel__epochs_per_block": 3,
    "evaluate__num_students": 2,
    "evaluate__val_every": 2,
    "evaluate__ema": 0.5,
    "runtime__train_threads": 1,
}


def passes_of(network, inputs):
    """Images of a forward pass, times the passes with which it and its gradients cost the same."""
    trains, images = torch.is_grad_enabled() and network.training, inputs[0]
    # One black image shows which layers can be folded.
    counts = isinstance(network, ConvNet) and bool(images.any())
    return len(images) * (1 + torch.is_grad_enabled() + trains) if counts else 0


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A small run: its plan, its store, and the passes through networks by stage."""
    folder, config = tmp_path_factory.mktemp("cost"), changed(**SMALL)
    seen, stage = collections.Counter(), [""]

    def count(network, inputs):
        seen[stage[0]] += passes_of(network, inputs)

    def run(self, *arguments):
        stage[0] = self.name
        return stage_run(self, *arguments)

    places = {"run": str(folder / "run"), "store": str(folder / "store")}
    planned, stage_run = wmdd.plan(config, **places), Stage.run
    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Stage, "run", run)
            wmdd.distill(config, executor="local", **places)
    finally:
        handle.remove()
    return planned, folder / "store", seen


def test_counted_passes_are_those_of_the_run(ran):
    planned, _, seen = ran
    work = Workload(planned.plan)
    counted = {
        stage: sum(item.images * item.each for task in tasks for item in work.passes(task))
        for stage, tasks in planned.plan.tasks.items()
    }
    assert {stage: number for stage, number in counted.items() if number} == dict(seen)


def test_stored_bytes_are_those_of_the_run(ran):
    planned, store, _ = ran
    written = collections.Counter()
    for path in Path(store).glob("*/*/commit.json"):
        commit = json.loads(path.read_text())
        written[commit["stage"]] += path.stat().st_size + sum(file["size"] for file in commit["files"].values())
    del written["index"]
    estimated = {stage: cost.stored_bytes for stage, cost in planned.cost.stages.items()}
    assert estimated.keys() == written.keys()
    ratios = {stage: estimated[stage] / size for stage, size in written.items()}
    assert {stage: ratio for stage, ratio in ratios.items() if not 0.7 < ratio < 1.3} == {}


def test_what_is_in_the_store_costs_nothing(ran):
    plan = ran[0].plan
    refs = plan.refs("evaluate")
    cost = cost_of(plan, refs[:1])
    assert list(cost.stages) == ["evaluate"]
    assert cost.stages["evaluate"].units == 1
    assert cost.flops == pytest.approx(cost_of(plan, refs).flops / len(refs))
    nothing = cost_of(plan, [])
    assert (nothing.flops, nothing.elapsed_s, nothing.stored_bytes, nothing.peak_bytes, nothing.lines()) == (0,) * 4 + (
        [],
    )


def test_planned_run_shows_its_cost(ran):
    shown = repr(ran[0])
    assert shown.startswith(f"PlannedRun({len(ran[0].missing)} units to run; on this CPU: about ")
    assert len(shown) < 500


def test_one_missing_class_costs_its_whole_group(ran):
    plan = ran[0].plan
    group = plan.tasks["recover"][0]
    assert len(group.units) > 1
    assert cost_of(plan, [group.units[0].ref]).stages["recover"].units == len(group.units)


def test_slower_chip_takes_longer(ran, monkeypatch):
    plan = ran[0].plan
    seconds = []
    for unit in ("AMX", "AVX-512", ""):
        monkeypatch.setattr("wmdd.engine.cost.bf16_unit", lambda unit=unit: unit)
        cost = cost_of(plan, plan.refs("pretrain"))
        assert cost.chip == (f"{unit} bf16" if unit else "fp32")
        seconds.append(cost.elapsed_s)
    assert seconds == sorted(seconds)


def shown(*words):
    done = CliRunner().invoke(cli, ["plan", "digits", *words], catch_exceptions=False)
    return [line for line in done.output.splitlines() if line.startswith(("on this", "on one", "store:", "with what"))]


def test_plan_shows_time_and_bytes(tmp_path):
    config = changed(**SMALL)
    store = str(tmp_path / "store")
    words = [word for name, value in SMALL.items() for word in (f"--{name.replace('__', '.')}", str(value))]
    lines = shown("--store", store, *words)
    assert [line.partition(":")[0] for line in lines] == ["on this CPU", "on one GPU", "store"]
    assert "assumed 50 TFLOP/s" in lines[1]
    wmdd.distill(config, run=str(tmp_path / "run"), store=store, executor="local", until="statistics")
    assert shown("--store", store, *words)[3].startswith("with what is in the store already: ")
    assert shown("--store", store, *words, "--until", "statistics") == []
