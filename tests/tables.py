"""Tests that check each entry of a table, and report all entries that fail."""

import functools
import inspect

import pytest


def each_of(names, cases, ids=()):
    """Run a test for each case, given as to `pytest.mark.parametrize`, in one test that reports every failing case.

    Each case has its own folder as tmp_path; what it changes with monkeypatch is undone, and caplog cleared.
    """
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    labels = [] if callable(ids) else list(ids)

    def decorate(test):
        parameters = inspect.signature(test).parameters

        @functools.wraps(test)
        def run(**fixtures):
            failures, count = [], 0
            for count, case in enumerate(cases, 1):
                values = dict(zip(names, case if len(names) > 1 else (case,), strict=True))
                try:
                    _run(test, fixtures, values, count)
                except (Exception, pytest.fail.Exception) as exc:
                    label = labels[count - 1] if labels else ", ".join(f"{value!r:.60}" for value in values.values())
                    failures.append((f"{label}: {type(exc).__name__}: {exc}", exc))
            assert count, "the table is empty"
            if failures:
                lines = "\n".join(line for line, _ in failures)
                raise AssertionError(f"{len(failures)} of {count} cases fail:\n{lines}") from failures[0][1]

        run.__signature__ = inspect.Signature([item for name, item in parameters.items() if name not in names])
        return run

    return decorate


def _run(test, fixtures, values, number):
    if "tmp_path" in fixtures:
        (folder := fixtures["tmp_path"] / f"case-{number}").mkdir()
        fixtures = fixtures | {"tmp_path": folder}
    if "caplog" in fixtures:
        fixtures["caplog"].clear()
    with pytest.MonkeyPatch.context() as patch:
        patched = {"monkeypatch": patch} if "monkeypatch" in fixtures else {}
        test(**fixtures | patched, **values)
