"""DD-Ranking's scores from fractions."""

import json
import math

import pytest
from rich.console import Console

from wmdd.config.recipes import recipe
from wmdd.report.ranking import augmentation_robust_score, columns, label_robust_score, normalised, write_ranking
from wmdd.storage.folder import Folder


def test_scores_are_those_of_the_documented_formulas():
    assert (normalised(-1), normalised(1)) == (0.0, 1.0)
    scores = label_robust_score(real_hard=0.8, made_hard=0.5, made_soft=0.6, random_soft=0.4)
    assert scores["IOR"] == pytest.approx(0.2)
    assert scores["HLR"] == pytest.approx(0.3)
    assert scores["LRS"] == pytest.approx((math.exp(-0.05) - math.exp(-1)) / (math.e - math.exp(-1)))
    alone = label_robust_score(0.8, 0.5, 0.6, 0.4, weight=1.0)
    assert alone["LRS"] == pytest.approx(normalised(0.2))
    ars = augmentation_robust_score(0.6, 0.4, 0.5, 0.45, weight=0.25)
    assert ars["ARS"] == pytest.approx(normalised(0.25 * 0.2 + 0.75 * 0.05))


def test_perfect_images_score_more_than_random_ones():
    best = label_robust_score(0.9, 0.9, 0.9, 0.1)
    none = label_robust_score(0.9, 0.1, 0.4, 0.4)
    assert none["LRS"] < best["LRS"] < 1


def metrics(part, rate):
    """Metrics of one purpose at one rate, each of whose costs is found in no other one."""
    method = "random" if part in (1, 4) else "wmdd"
    top1 = {"top1_last_mean": 0.5 + rate, "top1_last_std": None}
    student = {
        "protocol": {"name": "wmdd", "hash": f"hash{part}"},
        "distilled": top1,
        "baselines": {"random": top1},
        "full_data": {"top1": 0.9, "from": "teacher"},
    }
    return {
        **{"recipe": "digits", "set": "digits", "seed": 0, "classes": 10, "train_images": 9, "validation_images": 9},
        **{"validation_digest": "abc", "teacher": {"model": "net", "top1": 0.9, "loaded": None}, "labelled_with": []},
        **{"method": method, "ipc": 1, "students": {"net": student}},
        "bytes": {"images": 1000 * (part + 1), "labels": 10_000 * (part + 1)},
        "seconds": {"pretrain": 999.0, "statistics": 1.0, "recover": 10.0 + part, "relabel": 20.0 + part}
        | {"evaluate": 30.0 + part + rate},
    }


PURPOSES = ("made_soft", "random_soft", "made_hard", "made_plain", "random_plain")


def ranked(folder, rates=(0.125, 0.25)):
    results = {
        purpose: {
            rate: metrics(part, rate) for rate in (rates[:1] if purpose in ("made_soft", "made_plain") else rates)
        }
        for part, purpose in enumerate(PURPOSES)
    }
    return write_ranking(Folder(str(folder)), recipe("digits"), results, 0.5, rates)


def test_costs_of_a_ranking_are_those_of_each_part(tmp_path):
    facts = ranked(tmp_path)
    assert facts == json.loads((tmp_path / "ranking.json").read_text())
    for part, purpose in enumerate(PURPOSES):
        assert facts["bytes"][purpose] == {"images": 1000 * (part + 1), "labels": 10_000 * (part + 1)}
        students = 30.125 + part if purpose in ("made_soft", "made_plain") else 60.375 + 2 * part
        assert facts["seconds"][purpose]["evaluate"] == students, "of all rates"
        assert facts["seconds"][purpose]["relabel"] == 20 + part, "once"
    assert list(facts["bytes"]) == list(facts["seconds"]) == list(PURPOSES)


def test_table_of_costs_has_a_row_for_each_column_of_the_scores(tmp_path):
    facts = ranked(tmp_path)
    rows = [
        ("soft", "1", "1 kB", "10 kB", "11 s", "20 s", "30 s"),
        ("random soft", "2", "2 kB", "20 kB", "12 s", "21 s", "1 min 02 s"),
        ("hard", "2", "3 kB", "30 kB", "13 s", "22 s", "1 min 04 s"),
        ("no views", "1", "4 kB", "40 kB", "14 s", "23 s", "33 s"),
        ("random no views", "2", "5 kB", "50 kB", "15 s", "24 s", "1 min 08 s"),
    ]
    lines = (tmp_path / "ranking.md").read_text().splitlines()
    head = lines.index("| column | rates | pixels | labels | to make images | to label | to train students |")
    assert lines[head + 2 : head + 7] == [f"| {' | '.join(row)} |" for row in rows]
    assert lines[head + 8].startswith("Costs: images as 8-bit pixels")
    assert len(lines) == head + 9
    shown = columns(facts)[-1]
    assert list(zip(*(column.cells for column in shown.columns), strict=True)) == rows
    console = Console(width=80)
    with console.capture() as capture:
        console.print(shown)
    assert "random no views" in capture.get(), "no row is cut"
