"""What the tests of commands without a cluster share: a clean environment, and the line that refuses a command."""

import os

import pytest

from wmdd.cli.main import main


def without_cluster(folder, monkeypatch):
    """Enter a folder without a cluster, with settings of Ray that are one test's alone; return the folder."""
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith("RAY_")})
    monkeypatch.setitem(os.environ, "WMDD_STATE", str(folder / "state"))
    monkeypatch.chdir(folder)
    (folder / "empty.txt").write_text("")
    return folder


def refused(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    said = capsys.readouterr()
    assert caught.value.code == 2, said.err
    assert said.err.startswith("wmdd: "), said.err
    assert said.err.count("\n") == 1, said.err
    return said.err
