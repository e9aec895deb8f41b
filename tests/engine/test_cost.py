"""The estimate of a run's cost: what is counted against what a run does, and how it is shown."""

import collections
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from digits import changed

import wmdd
from wmdd.cli.main import cli
from wmdd.config.distill import override
from wmdd.engine.cost import GPU_STEP_S, START_S, cost_of
from wmdd.engine.work import Workload
from wmdd.models.convnet import ConvNet
from wmdd.stages import STAGES, Stage

SMALL = {
    "data__per_class": 30,
    "ipc": 2,
    "pretrain__epochs": 3,
    "pretrain__batch_size": 16,
    "pretrain__ema": 0.5,
    "recover__iterations": 4,
    "statistics__feature_views": "random",
    "relabel__epochs": 5,
    "relabel__batch_size": 8,
    "relabel__epochs_per_block": 3,
    "evaluate__num_students": 2,
    "evaluate__val_every": 2,
    "evaluate__ema": 0.5,
    "evaluate__worth": (1, 3),
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
    assert {stage: number for stage, number in counted.items() if number} == dict(+seen)


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
    refs = [unit.ref for unit in plan.units("evaluate") if not unit.params.images.startswith("worth")]
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


CHIPS = {"AMX bf16": ["amx_bf16", "avx512_bf16"], "AVX-512 bf16": ["avx512_bf16"], "fp32": [], "emulated bf16": []}


def test_slower_chip_takes_longer(ran, monkeypatch):
    plan = ran[0].plan
    seconds = {}
    for chip, flags in CHIPS.items():
        monkeypatch.setattr("wmdd.engine.cost.cpu_flags", lambda flags=flags: flags)
        precision = "bf16" if chip == "emulated bf16" else "auto"
        config = override(plan.config, {"runtime.precision": precision})
        cost = cost_of(replace(plan, config=config), plan.refs("pretrain"))
        assert cost.chip == chip
        seconds[chip] = cost.elapsed_s
    # The first two differ by the network: small ones were measured on other machines.
    assert max(seconds["AMX bf16"], seconds["AVX-512 bf16"]) < seconds["fp32"] < seconds["emulated bf16"]
    assert seconds["AMX bf16"] != seconds["AVX-512 bf16"]


def with_options(plan, **options):
    return replace(plan, config=override(plan.config, {name.replace("__", "."): v for name, v in options.items()}))


def on_cpus(monkeypatch, usable, compute):
    monkeypatch.setattr("wmdd.engine.cost.usable_cpus", lambda: usable)
    monkeypatch.setattr("wmdd.engine.cost.compute_cpus", lambda: compute)


def test_teacher_costs_the_threads_that_it_keeps_busy(ran, monkeypatch):
    plan = with_options(ran[0].plan, runtime__train_threads=0)
    on_cpus(monkeypatch, 8, 8)
    refs = plan.refs("pretrain")
    one = cost_of(plan, refs).stages["pretrain"]
    assert one.cores == 1, "digits"
    large = with_options(plan, pretrain__batch_size=512)  # 3.5e9 FLOP
    assert cost_of(large, refs).stages["pretrain"].cores == 6
    on_cpus(monkeypatch, 8, 3)
    assert cost_of(large, refs).stages["pretrain"].cores == 3, "OMP_NUM_THREADS"
    fixed = cost_of(with_options(plan, runtime__train_threads=2), refs).stages["pretrain"]
    assert (fixed.cores, fixed.elapsed_s) == (2, pytest.approx(one.elapsed_s / 2))


def test_workers_are_those_that_ray_starts(ran, monkeypatch):
    plan = ran[0].plan
    on_cpus(monkeypatch, 4, 1)  # OMP_NUM_THREADS=1 is no limit of Ray's
    refs = plan.refs("evaluate")
    assert len(plan.tasks["evaluate"]) >= 4
    four = cost_of(plan, refs).stages["evaluate"]
    assert four.cores == 4
    for option in ({"ray__actors": 1}, {"ray__cpus_per_actor": 4.0}):
        alone = cost_of(with_options(plan, **option), refs).stages["evaluate"]
        assert (alone.cores, alone.elapsed_s) == (1, pytest.approx(4 * four.elapsed_s))
        assert alone.snapshot_bytes < four.snapshot_bytes
    assert cost_of(plan, refs[:1]).cores == 1, "one task"


def test_small_networks_cost_a_gpu_its_start_and_its_steps(ran):
    cost = cost_of(ran[0].plan, ran[0].missing)
    steps = sum(stage.steps for stage in cost.stages.values())
    assert cost.gpu_s == pytest.approx(START_S + GPU_STEP_S * steps, rel=0.05)


def test_real_images_take_time_to_read(ran):
    assert ran[0].cost.stages["select"].elapsed_s > 0


def planned(*words):
    return CliRunner().invoke(cli, ["plan", "digits", *words], catch_exceptions=False).output.splitlines()


def shown(*words):
    return [line for line in planned(*words) if line.startswith(("on this", "on one", "store:", "the whole run"))]


def test_plan_shows_time_and_bytes(tmp_path):
    config = changed(**SMALL)
    store = str(tmp_path / "store")
    words = [word for name, value in SMALL.items() for word in (f"--{name.replace('__', '.')}", str(value))]
    lines = shown("--store", store, *words)
    assert [line.partition(":")[0] for line in lines] == ["on this CPU", "on one GPU", "store"]
    assert "10 s of it to start" in lines[0]
    assert "assumed 50 TFLOP/s and 5 ms a step" in lines[1]
    assert "more, at most" in lines[2]
    wmdd.distill(config, run=str(tmp_path / "run"), store=store, executor="local", until="statistics")
    assert shown("--store", store, *words)[3].startswith("the whole run, from an empty store: about ")
    assert shown("--store", store, *words, "--until", "statistics") == []


def test_table_fits_eighty_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = planned("--store", str(tmp_path / "store"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [row[0] for row in rows] == list(STAGES), "one line for each"
    assert [row[4] for row in rows if row[0] == "select"] == ["under 1 s"]
    assert max(len(line) for line in lines if line.startswith("│")) <= 80
    assert any("┃ time on this CPU ┃" in line for line in lines)


def test_cost_is_estimated_once(ran):
    assert ran[0].cost is ran[0].cost
    assert ran[0].whole_cost is ran[0].whole_cost
