"""The steps of `make bench`."""

from benchmarks import compilation
from benchmarks.steps import STEPS, Setting


def test_compilation_says_why_there_is_none(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "as it was")  # so that it is again
    monkeypatch.setattr(compilation, "compiler_failure", lambda device: "no C compiler")
    figures = {}
    setting = Setting(True, None, None, "", "", on="cpu")
    compilation.run(setting, figures.update, **STEPS["cpu"]["compilation"].arguments)
    assert figures["compiler_failure"] == "no C compiler"
    assert figures["result"] == "torch cannot compile here"
