"""Runs that end after a stage, and go on later."""

import json

import pytest
from click.testing import CliRunner

from wmdd.cli.main import cli
from wmdd.commands.distill import distill, rewrite
from wmdd.commands.export import export
from wmdd.config.distill import STAGE_NAMES, override
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_method
from wmdd.data.scan import build_index
from wmdd.distilled import load_distilled
from wmdd.engine.plan import plan_from
from wmdd.engine.until import cut
from wmdd.errors import ArtifactError, ConfigError
from wmdd.storage.folder import Folder
from wmdd.storage.store import ArtifactRef

FEW = {
    "data.classes": ("0", "1"),
    "data.per_class": 20,
    "pretrain.model": "convnet1_w8",
    "pretrain.epochs": 1,
    "recover.iterations": 2,
    "relabel.epochs": 1,
    "evaluate.students": ("convnet1_w4",),  # another network: its own on all data is a second teacher
    "evaluate.num_students": 1,
    "evaluate.val_every": 1,
    "runtime.train_threads": 1,
}


def plan(method="wmdd", **changes):
    index = build_index("builtin:digits", classes=("0", "1"))
    config = override(with_method(recipe("digits"), method), FEW | changes)
    return plan_from(config, index, ArtifactRef("index", "index", "key"))


def inputs(made):
    for stage in made.tasks:
        for unit in made.units(stage):
            for refs in unit.inputs.values():
                yield from refs if isinstance(refs, tuple) else (refs,)


@pytest.mark.parametrize("method", ["wmdd", "herding", "random"])
def test_every_cut_has_all_that_it_needs_and_no_more(method):
    whole = plan(method, **{"relabel.teachers": ("convnet2_w4",)})
    stages = [stage for stage in STAGE_NAMES if whole.tasks[stage]]
    for place, until in enumerate(stages):
        made = cut(whole, until)
        assert [stage for stage in STAGE_NAMES if made.tasks[stage]] == stages[: place + 1]
        refs = {ref for stage in made.tasks for ref in made.refs(stage)}
        assert {ref for ref in inputs(made) if ref.stage != "index"} <= refs
        trained = [ref.unit for ref in made.refs("pretrain")]
        others = {"relabel": ["full-convnet2_w4"], "evaluate": ["full-convnet2_w4", "full-convnet1_w4"]}
        assert sorted(trained) == sorted(["teacher", *others.get(until, [])]), until
    for until in set(STAGE_NAMES) - set(stages):
        with pytest.raises(ConfigError, match=rf"--until {until}: is no stage of this run \(method {method}\); choose"):
            cut(whole, until)
    assert cut(whole, None) is whole


@pytest.mark.parametrize(
    ("method", "ends"),
    [("wmdd", ["recover"]), ("herding", ["pretrain", "relabel"]), ("random", ["pretrain", "select"])],
)
def test_run_ends_after_any_stage_and_goes_on(tmp_path, method, ends):
    run, config = str(tmp_path / "run"), override(with_method(recipe("digits"), method), FEW)
    stages = [stage for stage in STAGE_NAMES if plan(method).tasks[stage]]
    keys = {}
    for until in (*ends, None):
        made = distill(config, run=run, executor="local", until=until)
        done = stages[: stages.index(until or stages[-1]) + 1]
        seconds = {stage for stage, value in made.metrics["seconds"].items() if value}
        assert (made.metrics["until"], seconds) == (until, set(done))
        images = ("recover" if method == "wmdd" else "select") in done
        has = {"images": images, "labels": "relabel" in done, "students": until is None}
        assert made.metrics["missing"] == [name for name, there in has.items() if not there]
        page = (tmp_path / "run/report.html").read_text()
        assert (f"This run ended after {until} (--until), without" in page) == (until is not None)
        assert [(tmp_path / "run" / name).exists() for name in ("images.png", "labels/manifest.json")] == [
            has["images"],
            has["labels"],
        ]
        if images:
            assert len(load_distilled(run)) == 2
            export(run, "folder")
        else:
            with pytest.raises(ArtifactError, match="until=recover"):
                load_distilled(run)
            assert rewrite(run).metrics == made.metrics
        artifacts = json.loads((tmp_path / "run/manifest.json").read_text())["artifacts"]
        assert all(artifacts[stage].items() >= units.items() for stage, units in keys.items())
        keys = artifacts
    assert made.metrics["distilled"] or method == "random"
    # What is there is not taken out of the folder again.
    assert distill(config, run=run, executor="local", until=ends[0]).metrics == made.metrics


def test_unknown_stage_is_one_line_before_any_work(tmp_path):
    line = "until=recovr: there is no such stage; choose from pretrain, statistics, barycenter, recover, select"
    with pytest.raises(ConfigError, match=line):
        distill("digits", run=str(tmp_path / "run"), until="recovr")
    assert list(tmp_path.iterdir()) == []


def test_plan_shows_the_stages_until_the_last(tmp_path):
    store = str(tmp_path / "store")
    done = CliRunner().invoke(cli, ["plan", "digits", "--store", store, "--until", "recover"], catch_exceptions=False)
    rows = [line.split("│")[1].strip() for line in done.output.splitlines() if "│" in line]
    assert list(filter(None, rows)) == ["pretrain", "statistics", "barycenter", "recover"]
    names = {item["name"].rpartition("/")[2] for item in Folder(store).entries()}
    assert names == {".wmdd-store", "index", "notes"}
