"""The commands around clusters, without one: what is refused before anything starts, and whose processes are whose."""

import os
import socket
import subprocess
import sys

import pytest

from cluster.processes import end, family, find
from cluster.state import TrialCluster, TrialNode, adopt, make_token, token_file
from wmdd.cli import main

ABSOLUTE = ("--run", "/nowhere/run")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder without a cluster, and settings of Ray that are this test's alone."""
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith("RAY_")})
    monkeypatch.setitem(os.environ, "WMDD_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    return tmp_path


def refused(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    said = capsys.readouterr()
    assert caught.value.code == 2, said.err
    assert said.err.startswith("wmdd: "), said.err
    assert said.err.count("\n") == 1, said.err
    return said.err


# Words, and what the line must hold: the option, the value, the remedy.
REFUSED = {
    "no command": (("submit",), ("--", "distill digits")),
    "unknown command": (("submit", "--", "nosuch"), ("nosuch",)),
    "no job": (("submit", "--", "recipes"), ("recipes", "distill, tune, plan, report")),
    "typing error before": (("submit", "--adress", "x", "--", "distill", "digits"), ("--adress", "wmdd submit --help")),
    "search in the job's own folder": (("submit", "--", "tune", "digits"), ("--run (not given)", "absolute path")),
    "search that is not shared": (("submit", "--", "tune", "--resume", "runs/x"), ("--resume runs/x", "absolute path")),
    "unknown recipe": (("submit", "--", "distill", "nosuch", *ABSOLUTE), ("nosuch", "digits")),
    "unknown option": (("submit", "--", "distill", "digits", "--nosuch", "3"), ("--nosuch", "wmdd distill --help")),
    "wrong value": (("submit", "--", "distill", "digits", *ABSOLUTE, "--recover.lr", "nan"), ("--recover.lr", "nan")),
    "default run": (("submit", "--", "distill", "digits"), ("--run", "thrown away", "s3://")),
    "relative run": (("submit", "--", "distill", "digits", "--run", "runs/a"), ("--run runs/a", "absolute")),
    "relative store": (("submit", "--", "distill", "digits", *ABSOLUTE, "--store", "s"), ("--store s", "absolute")),
    "relative data": (("submit", "--", "distill", "digits", *ABSOLUTE, "--data.path", "d"), ("--data.path d", "s3://")),
    "relative report": (("submit", "--", "report", "runs/a"), ("RUN runs/a", "absolute")),
    "relative weights": (
        ("submit", "--", "distill", "digits", *ABSOLUTE, "--pretrain.weights", "a.safetensors"),
        ("--pretrain.weights a.safetensors", "s3://"),
    ),
    "secret": (
        ("submit", "--env", "AWS_SECRET_ACCESS_KEY=hunter2", "--", "distill", "digits", *ABSOLUTE),
        ("--env AWS_SECRET_ACCESS_KEY", "credential", "cluster's nodes"),
    ),
    "password": (
        ("submit", "--", "distill", "digits", "--run", "sftp://me:hunter2@host/run"),
        ("sftp://...@host/run", "password", "environment"),
    ),
    "no value": (("submit", "--env", "X", "--", "distill", "digits", *ABSOLUTE), ("--env X", "NAME=VALUE")),
    "no folder": (("submit", "--working-dir", "gone", "--", "distill", "digits"), ("--working-dir gone",)),
    "no requirements": (("submit", "--requirements", "gone", "--", "distill", "digits"), ("--requirements gone",)),
    "no cluster": (("submit", "--", "distill", "digits", *ABSOLUTE), ("--address", "http://HOST:8265", "cluster up")),
    "no dashboard": (("jobs", "--address", "127.0.0.1:6379"), ("--address 127.0.0.1:6379", "http://HOST:8265")),
    "no number": (("jobs", "--address", "http://h:99999"), ("--address http://h:99999", "http://HOST:8265")),
    "nobody": (("logs", "a", "--address", "http://127.0.0.1:1"), ("http://127.0.0.1:1", "nobody answers")),
    "nothing runs": (("cluster", "status"), ("wmdd cluster up",)),
    "nothing to end": (("cluster", "down"), ("wmdd cluster up",)),
    "no node": (("cluster", "up", "--nodes", "0"), ("--nodes", "wmdd cluster up --help")),
    "ray client": (("distill", "digits", "--address", "ray://h:10001"), ("--address ray://h:10001", "wmdd submit")),
    "no port": (("distill", "digits", "--address", "head"), ("--address head", "HOST:PORT")),
    "no head": (("distill", "digits", "--address", "127.0.0.1:1"), ("--address 127.0.0.1:1", "nobody answers")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_one_line(capsys, case):
    words, parts = REFUSED[case]
    line = refused(capsys, *words)
    assert all(part in line for part in parts), line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RAY_ADDRESS", "ray://h:10001", ("distill", "digits")),
        ("RAY_ADDRESS", "127.0.0.1:1", ("distill", "digits")),
        ("RAY_ADDRESS", "127.0.0.1:1", ("distill", "digits", "--address", "auto")),
        ("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1", ("jobs",)),
    ],
)
def test_an_address_of_the_environment_is_checked_and_named(capsys, monkeypatch, name, value, words):
    monkeypatch.setitem(os.environ, name, value)
    assert f"{name} {value}" in refused(capsys, *words)


def test_a_taken_port_is_told_before_anything_starts(capsys, place):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"--dashboard-port {port}" in refused(capsys, "cluster", "up", "--dashboard-port", str(port))
    assert not (place / "state/state.json").exists()


def test_a_missing_token_is_told_before_ray_is_asked(capsys, monkeypatch):
    monkeypatch.setitem(os.environ, "RAY_AUTH_MODE", "token")
    monkeypatch.setitem(os.environ, "RAY_AUTH_TOKEN_PATH", "gone")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert "RAY_AUTH_TOKEN_PATH gone" in refused(capsys, "distill", "digits", "--address", address)


def test_a_state_folder_that_others_may_write_is_refused(capsys, place):
    (place / "state").mkdir()
    (place / "state").chmod(0o777)
    assert "WMDD_STATE" in refused(capsys, "cluster", "down")


def sleeper(**more):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    return subprocess.Popen(command, env={**os.environ, **more}, start_new_session=True)


def test_processes_are_told_by_what_they_inherited(place):
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


def test_the_trial_clusters_token_is_taken_for_its_own_addresses_only(place):
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
