"""The steps of `make bench`: they run at toy size, and have the time that its forms promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compilation
from benchmarks.__main__ import FULL_MINUTES, MINUTES
from benchmarks.steps import STEPS, Setting, form
from wmdd.stages import STAGES

ROOT = Path(__file__).parents[2]
# The first two are run by test_process_steps; at toy size the others are the same as cifar10-quick and compilation.
LEFT_OUT = ("startup", "memory", "digits", "compilation-resnet18")


def test_forms_hold_the_minutes_that_they_promise():
    assert MINUTES["cpu"] < 10  # no step outlasts them, see test_gpu_runner
    more = set(form("cpu", full=True)) - set(form("cpu", full=False))
    assert more == {"compilation-resnet18", "cifar10-quick"}
    # Those of the quick form end on this much time also where the others follow.
    assert MINUTES["cpu"] * 60 + sum(STEPS["cpu"][name].limit_s for name in more) <= FULL_MINUTES * 60


def test_full_form_needs_images():
    assert STEPS["cpu"]["cifar10-quick"].skip(Setting(False, None, None, "", "", on="cpu")) == "give --data"


def test_compilation_says_why_there_is_none(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "as it was")  # so that it is again
    monkeypatch.setattr(compilation, "compiler_failure", lambda device: "no C compiler")
    figures = {}
    setting = Setting(True, None, None, "", "", on="cpu")
    compilation.run(setting, figures.update, **STEPS["cpu"]["compilation"].arguments)
    assert figures["compiler_failure"] == "no C compiler"
    assert figures["result"] == "torch cannot compile here"


@pytest.mark.slow
def test_steps_run_at_toy_size(tmp_path):
    names = [name for name in form("cpu", full=True) if name not in LEFT_OUT]
    words = ["-m", "benchmarks", "cpu", "--toy", "--steps", ",".join(names), "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "cpu-toy.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["step"]: line["ended"] for line in lines} == dict.fromkeys(names, "done"), done.stdout
    figures = {line["step"]: line for line in lines}
    assert figures["machine"]["minutes"] == FULL_MINUTES
    assert {"share_of_network", "busy_share"} <= set(figures["statistics"])
    assert "pays_from_steps" in figures["compilation"]["ways"]["convnet1_w8"]
    recipe = figures["cifar10-quick"]
    assert set(recipe["ways"]) == {"idle", "busy"}
    assert all(set(metrics["seconds"]) == set(STAGES) for metrics in recipe["metrics"].values())
    assert "distilled of convnet1_w8 " in recipe["result"]
    assert "; protocol wmdd (changed) " in recipe["result"]
