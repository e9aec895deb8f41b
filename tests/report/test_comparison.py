"""Comparisons over regimes of labels and budgets: tables, pictures and files."""

import json

import pytest

from wmdd.commands.compare import compare
from wmdd.config.cases import Case
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.report.comparison_plots import panels_of, plot_png
from wmdd.report.comparison_tables import cells, columns, latex, markdown, protocols_of

SMALL = {
    "data.classes": ("0", "1"),
    "data.per_class": 20,
    "pretrain.model": "convnet1_w8",
    "pretrain.epochs": 1,
    "recover.iterations": 2,
    "relabel.epochs_per_block": 2,
    "relabel.batch_size": 2,
    "evaluate.students": ("convnet1_w4",),
    "evaluate.num_students": 2,
    "evaluate.full_data": False,
    "runtime.train_threads": 1,
}
AXES = {"regimes": ["views", "fixed"], "epochs": [2, 4]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small comparison, its folder, and the notes of its run."""
    folder, notes = tmp_path_factory.mktemp("comparison"), []
    return compared(folder, notes, **AXES), folder, notes


def compared(folder, events, **axes):
    places = {"run": str(folder / "run"), "store": str(folder / "store"), "executor": "local"}
    config = override(recipe("digits"), SMALL)
    return compare(config, ["wmdd", "random"], [1, 2], **axes, **places, listener=events.append).facts


def test_every_method_is_scored_in_every_setting(made):
    facts, folder, _ = made
    rows = [Case(row["method"], row["ipc"], row["regime"], row["epochs"]) for row in facts["rows"]]
    assert len(rows) == len(set(rows)) == 16
    assert (facts["regimes"], facts["epochs"], facts["ipc"]) == (["views", "fixed"], [2, 4], [1, 2])
    for case, row in zip(rows, facts["rows"], strict=True):
        metrics = json.loads((folder / "run" / case.folder / "metrics.json").read_text())
        assert row["steps"] == metrics["training"]["steps"] == case.epochs * case.ipc
        assert row["protocol"] == metrics["protocol"]
    assert len({row["protocol"]["hash"] for row in facts["rows"]}) == 4  # of labels and epochs
    assert json.loads((folder / "run/compare.json").read_text()) == json.loads(json.dumps(facts))


def test_gain_is_over_images_in_the_same_setting(made):
    facts = made[0]
    for row in facts["rows"]:
        if row["method"] == "random":
            assert row["gain"] is None
            continue
        beside = ("ipc", "regime", "epochs", "student")
        (other,) = (
            item for item in facts["rows"] if item["method"] == "random" and all(item[n] == row[n] for n in beside)
        )
        assert row["gain"]["baseline"] == other["top1_last_mean"]


def test_table_has_a_line_for_each_regime_and_a_column_for_each_budget(made):
    facts = made[0]
    assert [row[:3] for row in cells(facts)] == [
        [method, "convnet1_w4", regime] for regime in ("views", "fixed") for method in ("wmdd", "random")
    ]
    head = [f"{ipc} per class {epochs} epochs" for ipc in (1, 2) for epochs in (2, 4)]
    assert f"| method | student | labels | {' | gain | '.join(head)} | gain |" in markdown(facts)
    assert latex(facts).count(r"\begin{table}") == 2
    views = [row for row in facts["rows"] if row["regime"] == "views" and (row["ipc"], row["epochs"]) == (2, 2)]
    assert cells(facts)[0][7].startswith(f"{100 * views[0]['top1_last_mean']:.1f} ± ")
    assert len(columns(facts)) == 2  # one for each number of images
    assert "2 images per class" in columns(facts)[1].title
    settings = "1 per class fixed 4 epochs, 2 per class fixed 4 epochs"
    assert f"({settings})" in protocols_of(facts)


def test_table_of_costs_has_bytes_and_seconds(made):
    facts, folder, _ = made
    size = 16 * 16 * 3
    assert facts["bytes"]["wmdd-ipc-2-fixed-epochs-4"] == {"images": 4 * size, "labels": 4 * 2 * 2}
    files = (folder / "run/wmdd-ipc-2-views-epochs-4/labels").glob("part-*.parquet")
    assert facts["bytes"]["wmdd-ipc-2-views-epochs-4"]["labels"] == sum(file.stat().st_size for file in files)
    assert "| method | at | pixels | labels | to make images | to label | to train students |" in markdown(facts)
    assert "| wmdd | 2 per class fixed 4 epochs | 3.1 kB | 0.016 kB |" in markdown(facts)


def test_picture_has_a_panel_for_each_regime_and_size(made):
    facts = made[0]
    titles = [panel.title for panel in panels_of(facts)]
    assert titles == [
        f"digits, convnet1_w4, labels: {regime}, {ipc} per class" for regime in ("views", "fixed") for ipc in (1, 2)
    ]
    assert all({row["epochs"] for row in panel.rows} == {2, 4} for panel in panels_of(facts))
    assert plot_png(facts).startswith(b"\x89PNG")


def test_interrupted_or_wider_comparison_computes_what_is_missing(made):
    _, folder, _ = made
    again, wider = [], []
    compared(folder, again, **AXES)
    assert not [event for event in again if event.kind == "unit"]
    narrow = compared(folder, wider, epochs=[2, 4])  # the labels of the recipe are stored views
    assert not [event for event in wider if event.kind == "unit"]
    assert (narrow["regimes"], narrow["epochs"]) == ([], [2, 4])
    notes = " ".join(event.text for event in wider if event.kind == "note")
    assert "wmdd at 1 views 2 epochs" in notes
    assert "its table is replaced" in notes
