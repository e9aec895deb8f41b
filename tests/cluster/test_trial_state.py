"""The state of a trial cluster: which processes are its own, and who uses its token."""

import os
import subprocess
import sys
import tempfile

import pytest
from refusals import without_cluster

from cluster.processes import end, family, find
from cluster.state import TrialCluster, TrialNode, adopt, make_token, token_file


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    return without_cluster(tmp_path, monkeypatch)


def sleeper(**more):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    return subprocess.Popen(command, env={**os.environ, **more}, start_new_session=True)


def test_processes_are_identified_by_environment(place):
    ours, others = str(place / "ours"), str(place / "others")
    with sleeper(RAY_TMPDIR=ours) as one, sleeper(RAY_TMPDIR=ours) as two, sleeper(RAY_TMPDIR=others) as other:
        try:
            assert {process.pid for process in family(ours)} == {one.pid, two.pid}
            assert [bool(find(pid, ours)) for pid in (one.pid, other.pid, os.getpid())] == [True, False, False]
            one.kill()
            one.wait()
            assert end(ours, supervisor=one.pid) == 1  # its number may be another process's by now
            assert (family(ours), other.poll()) == ([], None)
        finally:
            for process in (one, two, other):
                process.kill()


def test_trial_token_is_used_for_its_addresses_only(place):
    with sleeper(RAY_TMPDIR=str(place)) as head:
        try:
            make_token()
            assert token_file().stat().st_mode & 0o777 == 0o600
            node = TrialNode("id", head.pid)
            TrialCluster(str(place), 1, "127.0.0.1:7001", "http://127.0.0.1:7002", (node,)).save()
            assert (adopt("127.0.0.1:7003"), os.environ.get("RAY_AUTH_MODE")) == (None, None)
            assert adopt("http://localhost:7002/") == adopt("localhost:7001") == adopt(None) == TrialCluster.load()
            assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(token_file())
        finally:
            head.kill()
    assert adopt(None) is None  # a head that is gone has no say


def test_user_without_home_can_keep_cluster_state(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for name in ("WMDD_STATE", "XDG_STATE_HOME"):
        os.environ.pop(name, None)
    assert token_file().is_relative_to(tempfile.gettempdir())
    assert adopt(None) is None
