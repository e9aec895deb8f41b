"""Comparisons over regimes of labels and budgets: tables, pictures and files."""

import itertools
import json

import pytest

from wmdd.commands.compare import compare
from wmdd.config.cases import Case
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.report.comparison import write_comparison
from wmdd.report.comparison_plots import drawn, panels_of, plot_png, title_of
from wmdd.report.comparison_tables import cells, columns, latex, markdown, protocols_of
from wmdd.storage.folder import Folder

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
    assert title_of(facts) == "digits, convnet1_w4"
    assert titles == [f"labels: {regime}, {ipc} per class" for regime in ("views", "fixed") for ipc in (1, 2)]
    assert all({row["epochs"] for row in panel.rows} == {2, 4} for panel in panels_of(facts))
    assert plot_png(facts).startswith(b"\x89PNG")


def fake(regimes=(), epochs=(), ipc=(1, 10), students=("resnet18",), title="cifar10-quick"):
    """The parts of a comparison that its picture is drawn from."""
    gain = {"over": "random", "baseline": 0.3, "mean": 0.1, "standard_error": 0.01}
    scores = {"top1_last_mean": 0.4, "top1_last_std": 0.01, "protocol": {"name": "wmdd", "hash": "abc"}}
    methods = ("wmdd", "sre2l", "random")
    names = ("method", "ipc", "regime", "epochs", "student")
    rows = [
        dict(zip(names, values, strict=True)) | scores
        for values in itertools.product(methods, ipc, regimes or [None], epochs or [None], students)
    ]
    return {
        "set": title,
        "methods": list(methods),
        "ipc": list(ipc),
        "regimes": list(regimes),
        "epochs": list(epochs),
        "rows": [row | {"steps": row["ipc"] * (row["epochs"] or 1), "gain": gain} for row in rows],
        "full_data": {student: {"top1": 0.9, "from": "teacher"} for student in students},
    }


LONG = "mobilenetv3_small_minimal_100_of_another_library_and_more_of_it"
PICTURES = {
    "three regimes": fake(("views", "fixed", "hard")),
    "epochs": fake(epochs=(50, 300)),
    "regimes and epochs": fake(("views", "fixed", "hard"), (50, 300)),
    "a long title": fake(ipc=(10,), students=(LONG,), title=f"{LONG} {LONG}"),
    "two students": fake(("views", "hard"), students=(LONG, "resnet18"), title=LONG),
    "no characters of the font": fake(("views", "fixed", "hard"), students=("\u732b" * 30,), title="\u732b" * 30),
}


@pytest.mark.parametrize("comparison", PICTURES.values(), ids=PICTURES)
def test_titles_of_a_picture_do_not_overlap_and_are_inside(comparison):
    with drawn(comparison) as drawing:
        drawing.draw_without_rendering()
        texts = [axes.title for axes in drawing.axes if axes.get_title()]
        boxes = [text.get_window_extent() for text in (*texts, drawing._suptitle, *drawing.legends)]
        assert len(texts) == len(drawing.axes) or len(drawing.axes) == 1
        assert drawing.get_suptitle().startswith(comparison["set"][:5].encode("ascii", "backslashreplace").decode())
        for one, other in itertools.combinations(boxes, 2):
            assert not one.overlaps(other)
        for box in boxes:
            assert drawing.bbox.x0 <= box.x0 < box.x1 <= drawing.bbox.x1
            assert drawing.bbox.y0 <= box.y0 < box.y1 <= drawing.bbox.y1


def test_teachers_of_the_caption_do_not_depend_on_the_order_of_regimes(made, tmp_path):
    facts, folder, _ = made
    teachers = [{"model": "convnet2_w8", "top1": 0.8, "loaded": None}]
    results = {}
    for case in (Case(row["method"], row["ipc"], row["regime"], row["epochs"]) for row in facts["rows"]):
        metrics = json.loads((folder / "run" / case.folder / "metrics.json").read_text())
        results[case] = metrics | {"labelled_with": teachers if case.regime == "views" else []}
    for ordered in (results, dict(reversed(results.items()))):
        written = write_comparison(Folder(str(tmp_path)), recipe("digits"), ordered, {})
        assert written["labelled_with"] == teachers
        assert "convnet2_w8, 80.0 %" in (tmp_path / "compare.md").read_text()
    alone = {case: metrics for case, metrics in results.items() if case.regime == "fixed"}
    assert write_comparison(Folder(str(tmp_path)), recipe("digits"), alone, {})["labelled_with"] == []


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
