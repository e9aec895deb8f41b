"""`wmdd compare` as a user runs it."""

import json
import re
import shutil

import pytest
from conftest import TINY, UNSEEDED, call, commits

from wmdd.cli.compare import read_changes
from wmdd.config.recipes import recipe

pytestmark = pytest.mark.slow
PLACE = ("--run", "runs/digits-compare")
WORDS = ("compare", "digits", *UNSEEDED, *PLACE, "--executor", "local", "--num-students", "1", "--ipc", "1,2")


def test_wider_comparison_runs_only_what_is_new(tiny_run, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(tiny_run.store, store)  # others compare their stores with the shared one
    first = call(tmp_path, *WORDS, "--methods", "wmdd,random", "--store", store)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "runs/digits-compare"
    facts = json.loads((folder / "compare.json").read_text())
    assert [(row["method"], row["ipc"]) for row in facts["rows"]] == [
        ("wmdd", 1), ("random", 1), ("wmdd", 2), ("random", 2)
    ]  # fmt: skip
    ours = json.loads((tiny_run.run / "metrics.json").read_text())
    assert facts["rows"][2]["runs"][0] == ours["distilled"]["runs"][0]
    assert facts["rows"][3]["runs"][0] == ours["baselines"]["random"]["runs"][0]
    assert re.search(r"random-ipc-1 is scored \(\d of 4\): runs/digits-compare/random-ipc-1", first.stdout)
    assert (folder / "wmdd-ipc-1/report.html").exists()
    for kind in ("md", "tex", "png"):
        assert (folder / f"compare.{kind}").stat().st_size > 100
    before = commits(store)
    wider = call(tmp_path, *WORDS, "--methods", "wmdd,random,herding", "--store", store)
    assert wider.returncode == 0, wider.stderr
    after = commits(store)
    assert {name: after[name] for name in before} == before
    assert {json.loads(commit)["stage"] for name, commit in after.items() if name not in before} == {
        "select", "relabel", "evaluate"
    }  # fmt: skip
    assert "herding" in wider.stdout
    # What would mix with it, or take its table away, is told.
    narrower = call(tmp_path, *WORDS[:-1], "1", "--methods", "wmdd,random", "--store", store)
    assert narrower.returncode == 0, narrower.stderr
    assert "herding at 1, wmdd at 2, random at 2, herding at 2 more: its table is replaced" in narrower.stdout
    for words, told in (
        (("distill", "digits", *TINY, "--run", folder), f"--run {folder}: holds a comparison of wmdd compare"),
        (("compare", "digits", "--run", folder / "wmdd-ipc-1"), "holds a run of wmdd distill"),
        (("report", folder), f"holds a comparison; give a case of it, such as {folder}/wmdd-ipc-1"),
    ):
        refused = call(tmp_path, *words, *(() if words[0] == "report" else ("--executor", "local")))
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert told in refused.stderr


def test_impossible_case_is_refused_before_others_run(tmp_path):
    ended = call(tmp_path, *WORDS, "--methods", "random", "--ipc", "1,5000")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "ipc=5000: larger than class" in ended.stderr
    assert {json.loads(commit)["stage"] for commit in commits(tmp_path / "runs/store").values()} <= {"index"}


def test_options_of_a_method_are_read_together():
    base = recipe("digits")
    assert read_changes(("cda:recover.curriculum_share=0.5",), base) == {"cda": {"recover.curriculum_share": "0.5"}}
    pair = ("wmdd:recover.curriculum=step", "wmdd:recover.curriculum_share=0.5")
    assert set(read_changes(pair, base)["wmdd"]) == {"recover.curriculum", "recover.curriculum_share"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "wmdd,dm"), "--methods dm: no such method; choose from wmdd, "),
        (("--ipc", "1,x"), "--ipc 1,x: input should be a whole number"),
        (("--method", "cda"), "--method: a comparison takes several; use --methods"),
        (("--set", "sre2l=1"), "--set sre2l=1: not understood"),
        (("--set", "wmdd:recover.lr=-1"), "--set wmdd:recover.lr=-1: input should be greater than 0"),
        (("--set", "dm:recover.lr=1"), "--set dm: method dm: no such method; choose from wmdd, "),
        (("--set", "cda:recover.nosuch=1"), "--set cda:recover.nosuch=1: no such option"),
        (("--set", "cda:recover.lr=1"), "--set cda: is not compared"),
        (("--set", "random:recover.lr=1"), "--set random:recover.lr: random does nothing with it"),
        (("--recover.bn_weight", "3"), "--recover.bn_weight 3.0: sre2l sets it in its own way"),
        (("--methods", "wmdd,random,wmdd"), "--methods wmdd,random,wmdd: names wmdd twice"),
        (("--ipc", "1,10,1"), "--ipc 1,10,1: names 1 twice"),
        (("--ipc", "1,0"), "--ipc 1,0: input should be greater than or equal to 1"),
        (("--barycenter.ipc", "2"), "No such option '--barycenter.ipc'. It is ipc now"),
        (
            ("--num-students", "2", "--evaluate.num_students", "3"),
            "--num-students 2, --evaluate.num_students 3: are the same option",
        ),
        (("--regimes", "views,soft"), "--regimes soft: no such regime; choose from views, fixed, hard"),
        (("--epochs", "10,x"), "--epochs 10,x: input should be a whole number"),
        (("--epochs", "9", "--relabel.epochs", "9"), "--epochs 9, --relabel.epochs 9: set the same; leave one out"),
        (("--regimes", "hard", "--evaluate.labels", "soft"), "--regimes hard, --evaluate.labels soft: set the same"),
        (("--num-students", "0"), "--num-students 0: input should be greater than or equal to 1"),
        (("--evaluate.students", "convnet2,convnet2"), "names convnet2 twice"),
    ],
)
def test_bad_input_is_one_line(tmp_path, words, message):
    ended = call(tmp_path, "compare", "digits", "--executor", "local", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
