"""The steps of `make bench`: they have the time that its forms promise."""

from benchmarks import compilation
from benchmarks.__main__ import FULL_MINUTES, MINUTES
from benchmarks.steps import STEPS, Setting, form


def test_forms_hold_the_minutes_that_they_promise():
    assert MINUTES["cpu"] < 10  # no step outlasts them, see test_gpu_runner
    more = set(form("cpu", full=True)) - set(form("cpu", full=False))
    assert more == {"compilation-resnet18", "cifar10-quick"}
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
