"""What tables, pictures and lines say of a comparison of methods, and the gain over selected images."""

import numpy as np
import pytest
import torch

from wmdd.commands.compare import Comparison
from wmdd.commands.distill import RunResult
from wmdd.commands.rank import Ranking
from wmdd.data.index import hold_out
from wmdd.data.scan import build_index
from wmdd.distilled import DistilledImages
from wmdd.report.comparison_plots import drawn, plot_png
from wmdd.report.comparison_tables import Style, cells, latex, markdown, protocols_of
from wmdd.report.gains import gain_of, gain_text
from wmdd.report.scores import score_rows, validation_digest


def scored(mean, std=None, count=1):
    return {"top1_last_mean": mean, "top1_last_std": std, "runs": [{}] * count}


def test_gain_is_over_the_best_baseline_with_its_standard_error():
    baselines = {"nearest": scored(0.3, 0.01, 3), "random": scored(0.5, 0.03, 3)}
    gain = gain_of(scored(0.545, 0.02, 4), baselines)
    assert (gain["over"], gain["baseline"]) == ("random", 0.5)
    assert gain["mean"] == pytest.approx(0.045)
    assert gain["standard_error"] == pytest.approx(np.sqrt(0.02**2 / 4 + 0.03**2 / 3))
    assert gain_text(gain) == "+4.5 ± 2.0"


def test_gain_of_one_student_has_no_error():
    gain = gain_of(scored(0.4), {"random": scored(0.5, 0.01, 2)})
    assert gain["standard_error"] is None
    assert gain_text(gain) == "-10.0"
    assert gain_of(None, {"random": scored(0.5)}) is None
    assert gain_of(scored(0.5), {}) is None


def facts():
    def row(method, ipc, mean, std):
        runs = [{"seed": 0}, {"seed": 1}]
        protocol = {"name": "wmdd", "hash": "abc"}
        scores = {"top1_last_mean": mean, "top1_last_std": std, "runs": runs}
        return {"method": method, "ipc": ipc, "student": "net_w1", "protocol": protocol, **scores}

    rows = [row("wmdd", 1, 0.5, 0.012), row("sre2l", 1, 0.25, 0.0), row("wmdd", 10, 0.6, 0.1), row("sre2l", 10, 0.7, 0)]
    return {
        "recipe": "some_set",
        "set": "some_set",
        "methods": ["wmdd", "sre2l"],
        "ipc": [1, 10],
        "rows": rows,
        "full_data": {"net_w1": {"top1": 0.9, "from": "teacher"}},
        "labelled_with": [],
        "changes": {},
        "protocol": {"name": "wmdd", "hash": "abc"},
        "teacher": {"model": "net_w1", "top1": 0.9, "loaded": None},
        "validation_images": 100,
        "validation_digest": "0123456789ab",
    }


def test_tables_say_the_same_for_people_and_papers():
    assert cells(facts()) == [
        ["wmdd", "net_w1", "50.0 ± 1.2", "60.0 ± 10.0"],
        ["sre2l", "net_w1", "25.0 ± 0.0", "70.0 ± 0.0"],
        ["all data (the teacher)", "net_w1", "90.0", "90.0"],
    ]
    assert "| wmdd | net_w1 | **50.0 ± 1.2** | 60.0 ± 10.0 |" in markdown(facts())
    assert "2 students; protocol wmdd abc" in markdown(facts())
    text = latex(facts())
    assert r"sre2l & net\_w1 & $25.0 \pm 0.0$ & {\boldmath $70.0 \pm 0.0$} \\" in text
    assert r"some\_set: top-1 in \%" in text
    assert plot_png(facts()).startswith(b"\x89PNG")


def test_tables_show_gains_over_the_best_selected_images():
    shown = facts() | {"methods": ["wmdd", "sre2l", "random"]}
    gain = {"over": "random", "baseline": 0.45, "mean": 0.05, "standard_error": 0.0125}
    shown["rows"] = [row | {"gain": gain if row["method"] == "wmdd" else None} for row in shown["rows"]]
    shown["rows"] += [row | {"method": "random"} for row in shown["rows"][1::2]]
    assert cells(shown)[0] == ["wmdd", "net_w1", "50.0 ± 1.2", "+5.0 ± 1.2", "60.0 ± 10.0", "+5.0 ± 1.2"]
    assert cells(shown)[-1] == ["all data (the teacher)", "net_w1", "90.0", "", "90.0", ""]
    line = "gain: points over the best selection of real images (random), ± standard error"
    assert line in markdown(shown)
    assert "| method | student | 1 per class | gain | 10 per class | gain |" in markdown(shown)
    assert r"$+5.0 \pm 1.2$" in latex(shown)
    with drawn(shown) as drawing:
        below = drawing.axes[0].get_xlabel().split("\n", 1)[1]
    one, other = (f"+5.0 ± 1.2 at {ipc} (random)" for ipc in (1, 10))
    assert " ".join(below.split()) == f"wmdd, points over real images: {one}, {other}"
    with drawn(facts()) as drawing:
        assert drawing.axes[0].get_xlabel() == "images per class"
    assert "gain" not in markdown(facts())


def test_results_are_shown_in_one_line():
    line = "Comparison(some_set, 1, 10 per class; top-1 in %: wmdd, net_w1: 50.0 ± 1.2, 60.0 ± 10.0; sre2l, net_w1: "
    assert repr(Comparison("runs/c", facts())).startswith(line)
    scores = {"set": "pets", "ipc": 2, "rows": [{"student": "net_w1", "LRS": 0.25, "ARS": 0.5}]}
    assert repr(Ranking("runs/r", scores)) == "Ranking(pets, 2 per class; net_w1: LRS 0.250, ARS 0.500; in runs/r)"
    names, labels = tuple("abcdefg"), torch.arange(7).repeat_interleave(2)
    images = DistilledImages(
        torch.zeros(14, 3, 8, 8, dtype=torch.uint8), labels, torch.ones(14) / 2, names, url="runs/x"
    )
    line = "DistilledImages(14 images of 8 x 8 px, 2 for each of 7 classes (a, b, c, d, e, ...); from runs/x)"
    assert repr(images) == line
    images.class_names = ("\x1b[31ma", *names[1:])
    shown = [repr(images), repr(Comparison("runs/\x1b", facts())), repr(Ranking("runs/\x1b", scores))]
    assert all("\x1b" not in text and "\\x1b" in text for text in shown)


def test_validation_digest_tells_image_sets_apart():
    index = build_index("builtin:digits")
    whole, held = validation_digest(index), validation_digest(hold_out(index, 0.2))
    assert whole != held
    assert whole == validation_digest(build_index("builtin:digits"))
    assert whole in markdown(facts() | {"validation_digest": whole})
    assert held in latex(facts() | {"validation_digest": held})


def test_loaded_teacher_and_ensemble_are_named():
    loaded = facts() | {
        "full_data": {"net_w1": {"top1": 0.9, "from": "loaded teacher"}},
        "teacher": {"model": "net_w1", "top1": 0.9, "loaded": "default"},
        "labelled_with": [{"model": "net_w2", "top1": 0.85, "loaded": None}],
    }
    text = markdown(loaded)
    assert "| loaded teacher | net_w1 | 90.0 |" in text
    assert "all data" not in text
    assert "teacher net_w1, 90.0 % (loaded), labels also by net_w2, 85.0 %" in text
    assert "all data" in markdown(facts())
    assert plot_png(loaded)


def test_only_the_teachers_score_is_called_so():
    scored = {"top1_last_mean": 0.5, "top1_last_std": None, "top1_best_mean": 0.5, "top1_best_std": None}
    students = {
        name: {"distilled": scored, "baselines": {}, "gain": None, "full_data": {"top1": 0.9, "from": trained}}
        for name, trained in (("net_w1", "teacher"), ("net_w2", "trained as the teacher was"))
    }
    teacher = {"model": "net_w1", "top1": 0.9, "loaded": None}
    counts = {"classes": 2, "ipc": 1, "train_images": 9, "labelled_with": []}
    names = [row.name for row in score_rows({"teacher": teacher, "students": students, **counts})]
    assert names[1:] == [
        *("distilled, net_w1", "full data (the teacher), net_w1"),
        *("distilled, net_w2", "full data, net_w2"),
    ]
    subject = {"subject": "pets, 1 image per class", "missing": []}
    shown = repr(RunResult("runs/pets", {"teacher": teacher, "students": students, **counts, **subject}))
    begin = "RunResult(pets, 1 image per class, 2 classes; top-1: teacher net_w1: 90.0%; distilled, net_w1: 50.0%; full"
    assert shown.startswith(begin)
    assert shown.endswith("; in runs/pets)")
    other = facts() | {"full_data": {"net_w1": {"top1": 0.9, "from": "trained as the teacher was"}}}
    assert "| all data | net_w1 | 90.0 |" in markdown(other)


def test_tables_name_the_options_of_single_methods():
    told = facts() | {"changes": {"sre2l": {"recover.lr": "0.5", "recover.bn_weight": "1"}}}
    for text in (markdown(told), latex(told).replace("\\_", "_")):
        assert "; sre2l with recover.lr 0.5, recover.bn_weight 1" in text
    assert " with " not in markdown(facts())


def test_plot_does_not_join_points_of_other_hashes():
    joined = facts()
    apart = facts()
    apart["rows"] = [row | {"protocol": {"name": "wmdd", "hash": str(row["ipc"])}} for row in apart["rows"]]
    assert plot_png(joined) == plot_png(facts())
    assert plot_png(joined) != plot_png(apart)


def test_averaged_students_have_lines_of_their_own():
    averaged = facts()
    for row in averaged["rows"]:
        row |= {"top1_ema_last_mean": row["top1_last_mean"] + 0.05, "top1_ema_last_std": 0.02}
    assert cells(averaged, Style(best="*{}*"))[2:4] == [
        ["wmdd, EMA", "net_w1", "*55.0 ± 2.0*", "65.0 ± 2.0"],
        ["sre2l, EMA", "net_w1", "30.0 ± 2.0", "*75.0 ± 2.0*"],
    ]


def test_table_names_protocols_with_their_cases():
    mixed = facts()
    for row in mixed["rows"][2:]:
        row["protocol"] = {"name": "wmdd", "hash": "other"}
    assert protocols_of(mixed) == "protocols wmdd abc (1 per class); wmdd other (10 per class)"
    mixed["rows"][1]["protocol"] = {"name": "wmdd (changed)", "hash": "own"}
    assert protocols_of(mixed) == (
        "protocols wmdd abc (wmdd at 1); wmdd (changed) own (sre2l at 1); wmdd other (10 per class)"
    )
    assert protocols_of(mixed) in markdown(mixed)


def test_table_names_the_students_of_every_protocol():
    mixed = facts()
    others = [{**row, "student": "net_w2", "protocol": {"name": "rded", "hash": "two"}} for row in mixed["rows"]]
    mixed["rows"] += others
    assert protocols_of(mixed) == "protocols wmdd abc (net_w1); rded two (net_w2)"
    for row in others[2:]:
        row["protocol"] = {"name": "wmdd", "hash": "abc"}
    assert protocols_of(mixed) == (
        "protocols wmdd abc (net_w1, net_w2 at 10 per class); rded two (net_w2 at 1 per class)"
    )


def test_one_student_has_no_deviation():
    alone = facts()
    alone["rows"] = [row | {"top1_last_std": None, "runs": row["runs"][:1]} for row in alone["rows"]]
    assert cells(alone)[0] == ["wmdd", "net_w1", "50.0", "60.0"]
    assert r"$25.0$ & {\boldmath $70.0$}" in latex(alone)
    assert "last epoch, one student; protocol wmdd abc" in markdown(alone)
    assert plot_png(alone).startswith(b"\x89PNG")
