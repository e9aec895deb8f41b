"""The students that DD-Ranking's scores need, and what cannot be ranked."""

import json
import shutil

import pytest
from conftest import UNSEEDED, call, news

from wmdd.commands.rank import rank, trials
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_method
from wmdd.errors import ConfigError
from wmdd.report.ranking import label_robust_score


def test_hard_labels_and_random_images_choose_rates():
    made = trials(recipe("cifar10"), [0.1, 0.01])
    assert {name: list(cases) for name, cases in made.items()} == {
        "made_soft": [3e-3],
        "made_hard": [0.1, 0.01],
        "random_soft": [0.1, 0.01],
        "made_plain": [3e-3],
        "random_plain": [0.1, 0.01],
    }
    assert made["made_hard"][0.1].evaluate.labels == "hard"
    assert made["random_plain"][0.1].method == "random"
    plain = made["made_plain"][3e-3].relabel
    assert (plain.crop_scale, plain.flip, plain.mix) == ((1.0, 1.0), False, "none")


def test_no_trial_trains_on_larger_random_sets():
    made = trials(override(recipe("cifar10"), {"evaluate.worth": (1, 5)}), [0.1, 0.01])
    assert {config.evaluate.worth for cases in made.values() for config in cases.values()} == {()}


def test_rates_of_muon_follow_those_of_all_else():
    students = {"evaluate.optimizer": "muon", "evaluate.lr": 0.002, "evaluate.muon_lr": 0.02}
    made = trials(override(recipe("cifar10"), students), [0.1, 0.01])
    for purpose, cases in made.items():
        rates = [config.evaluate.muon_lr for config in cases.values()]
        assert rates == pytest.approx([10 * rate for rate in cases]), purpose
        assert len(set(rates)) == len(cases), purpose


def test_wrong_options_of_a_ranking_are_refused():
    with pytest.raises(ConfigError, match=r"^rates="):
        rank(recipe("digits"), rates=[0.0])
    with pytest.raises(ConfigError, match=r"^weight=2: give one between"):
        rank(recipe("digits"), weight=2)
    with pytest.raises(ConfigError, match=r"^method=random"):
        rank(with_method(recipe("digits"), "random"))
    with pytest.raises(ConfigError, match=r"evaluate\.full_data=false"):
        rank(override(recipe("digits"), {"evaluate.full_data": False}))


def test_ranking_in_a_read_only_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^run=/proc/x: cannot be written"):
        rank(recipe("digits"), run="/proc/x", store=str(tmp_path / "store"), executor="local")
    assert not list((tmp_path / "store").glob("pretrain/*"))


@pytest.mark.slow
def test_ranking_of_a_run_reuses_its_students(tiny_run, tmp_path):
    shutil.copytree(tiny_run.store, tmp_path / "store")  # others compare their stores with the shared one
    words = ("rank", "digits", *UNSEEDED, "--num-students", 1, "--executor", "local", "--rates", "0.001,0.01")
    words += ("--store", "store", "--run", "runs/digits-rank")
    done = call(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "runs/digits-rank/ranking.json").read_text())
    (row,) = facts["rows"]
    own = json.loads((tiny_run.run / "metrics.json").read_text())
    assert facts["num_students"] == 1
    top = {name: part["top1"] for name, part in row["parts"].items()}
    assert top["made_soft"] == own["distilled"]["runs"][0]["top1_last"]
    assert top["real_hard"] == own["full_data"]["top1"]
    assert row["parts"]["random_soft"]["lr"] in (0.001, 0.01)
    parts = ("real_hard", "made_hard", "made_soft", "random_soft")
    assert row["LRS"] == pytest.approx(label_robust_score(*(top[part] for part in parts))["LRS"])
    # Five kinds of training have a hash each, and all data was trained on as the teacher was.
    hashes = {name: part["protocol"]["hash"] for name, part in row["parts"].items() if "protocol" in part}
    assert hashes["made_soft"] == own["protocol"]["hash"]
    assert len({hashes[name] for name in ("made_soft", "made_hard", "made_plain")}) == 3
    assert row["parts"]["real_hard"]["from"] == "teacher"
    assert facts["validation_digest"] == own["validation_digest"]
    assert all(code in done.stdout for code in hashes.values())
    assert facts["bytes"]["made_soft"] == facts["bytes"]["made_hard"] | {"labels": own["bytes"]["labels"]}
    assert facts["bytes"]["made_hard"]["labels"] == 0
    assert facts["seconds"]["made_soft"]["recover"] == own["seconds"]["recover"]
    assert facts["seconds"]["random_soft"]["recover"] == 0
    assert "Costs: images as 8-bit pixels" in done.stdout.replace("\n", " ")
    assert f"{row['LRS']:.3f}" in done.stdout
    assert {item["kind"] for item in news(tmp_path / "runs/digits-rank")} >= {"begin", "unit", "done"}
    assert f"| convnet2_w16 | {row['LRS']:.3f} |" in (tmp_path / "runs/digits-rank/ranking.md").read_text()
