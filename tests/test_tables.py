"""Tables of cases are run to their end, and every case that fails is reported."""

import os

import pytest
from tables import each_of


def test_every_failing_case_is_reported():
    seen = []

    @each_of(("number", "even"), [(1, True), (2, True), (3, True)])
    def check(number, even):
        seen.append(number)
        assert (number % 2 == 0) is even

    with pytest.raises(AssertionError, match=r"^2 of 3 cases fail:\n1, True: AssertionError(.|\n)*\n3, True: "):
        check()
    assert seen == [1, 2, 3]
    with pytest.raises(AssertionError, match="the table is empty"):
        each_of("number", [])(lambda number: None)()


@each_of("first", "ab")
@each_of("second", "cd")
def test_cases_do_not_see_each_other(tmp_path, monkeypatch, first, second):
    assert list(tmp_path.iterdir()) == []
    assert "CASE" not in os.environ
    monkeypatch.setenv("CASE", first + second)
    (tmp_path / "file").touch()
