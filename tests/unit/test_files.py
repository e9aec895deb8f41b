"""What is tried again, and what is not."""

import errno

import pytest

from wmdd.files import explain, kind, may_pass, open_fs


@pytest.mark.parametrize("number", ["EIO", "ETIMEDOUT", "ECONNRESET", "ESTALE", "EAGAIN"])
def test_failure_that_may_pass_is_tried_again(number):
    assert may_pass(OSError(getattr(errno, number), "x"))
    assert explain(OSError(getattr(errno, number), "x")) == "(x); check the storage"


@pytest.mark.parametrize("number", ["ENOENT", "EACCES", "EISDIR", "ENOTDIR", "EEXIST", "ENOSPC", "EDQUOT", "EROFS"])
def test_failure_that_cannot_heal_is_not(number):
    assert not may_pass(OSError(getattr(errno, number), "x"))


def test_mistakes_of_our_own_are_not_tried_again():
    assert not may_pass(ValueError("x"))
    assert may_pass(EOFError())


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT"])
def test_full_disk_is_told_with_its_remedy(number):
    assert explain(OSError(getattr(errno, number), "full")) == "(full); make room there"


def test_error_of_another_file_system_is_told_as_one_of_storage(monkeypatch):
    class UnreachableError(Exception):
        pass

    def info(self, path):
        raise UnreachableError("no such\nhost")

    fs, path = open_fs("memory://other/set")
    monkeypatch.setattr(type(fs), "info", info)
    with pytest.raises(OSError, match=r"^UnreachableError: no such host$"):
        kind(fs, path)
