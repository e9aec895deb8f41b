"""The commands around clusters, without one: what is refused before anything starts."""

import os
import socket

import click
import pytest
from refusals import refused, without_cluster

from wmdd.cli.jobs import _check_words
from wmdd.cli.main import cli
from wmdd.errors import ConfigError

ABSOLUTE = ("--run", "/nowhere/run")
AT = ("--address", "http://127.0.0.1:1")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    return without_cluster(tmp_path, monkeypatch)


# Words, and what the line must hold: the option, the value, the remedy.
REFUSED = {
    "no command": (("submit",), ("--", "distill digits")),
    "unknown command": (("submit", "--", "nosuch"), ("nosuch",)),
    "no job": (("submit", "--", "recipes"), ("recipes", "distill, tune, plan, report")),
    "typing error before": (("submit", "--adress", "x", "--", "distill", "digits"), ("--adress", "wmdd submit --help")),
    "search in the job's own folder": (("submit", *AT, "--", "tune", "digits"), ("--run (not given)", "absolute path")),
    "search that is not shared": (
        ("submit", *AT, "--", "tune", "--resume", "runs/x"),
        ("--resume runs/x", "absolute path"),
    ),
    "unknown recipe": (("submit", "--", "distill", "nosuch", *ABSOLUTE), ("nosuch", "digits")),
    "unknown option": (("submit", "--", "distill", "digits", "--nosuch", "3"), ("--nosuch", "wmdd distill --help")),
    "wrong value": (("submit", "--", "distill", "digits", *ABSOLUTE, "--recover.lr", "nan"), ("--recover.lr", "nan")),
    "default run": (("submit", *AT, "--", "distill", "digits"), ("--run", "thrown away", "s3://")),
    "relative run": (("submit", *AT, "--", "distill", "digits", "--run", "runs/a"), ("--run runs/a", "absolute")),
    "relative store": (
        ("submit", *AT, "--", "distill", "digits", *ABSOLUTE, "--store", "s"),
        ("--store s", "absolute"),
    ),
    "relative data": (
        ("submit", *AT, "--", "distill", "digits", *ABSOLUTE, "--data.path", "d"),
        ("--data.path d", "s3://"),
    ),
    "relative report": (("submit", *AT, "--", "report", "runs/a"), ("RUN runs/a", "absolute")),
    "relative weights": (
        ("submit", *AT, "--", "distill", "digits", *ABSOLUTE, "--pretrain.checkpoint", "a.safetensors"),
        ("--pretrain.checkpoint a.safetensors", "s3://"),
    ),
    "relative weights without a suffix": (
        ("submit", *AT, "--", "distill", "digits", *ABSOLUTE, "--pretrain.checkpoint", "deep/teacher"),
        ("--pretrain.checkpoint deep/teacher", "s3://"),
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
    "no cluster and no run": (("submit", "--", "distill", "digits"), ("--address: no cluster runs here", "cluster up")),
    "no cluster and a relative report": (("submit", "--", "report", "runs/a"), ("--address: no cluster runs here",)),
    "no dashboard": (("jobs", "--address", "127.0.0.1:6379"), ("--address 127.0.0.1:6379", "http://HOST:8265")),
    "no number": (("jobs", "--address", "http://h:99999"), ("--address http://h:99999", "http://HOST:8265")),
    "nobody": (("logs", "a", "--address", "http://127.0.0.1:1"), ("http://127.0.0.1:1", "nobody answers")),
    "nothing runs": (("cluster", "status"), ("wmdd cluster up",)),
    "nothing to end": (("cluster", "down"), ("wmdd cluster up",)),
    "no node": (("cluster", "up", "--nodes", "0"), ("--nodes 0: ", "greater than or equal to 1")),
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
def test_address_from_environment_is_checked_and_named(capsys, monkeypatch, name, value, words):
    monkeypatch.setitem(os.environ, name, value)
    assert f"{name} {value}" in refused(capsys, *words)


def test_port_in_use_is_refused_before_anything_starts(capsys, place):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"--dashboard-port {port}" in refused(capsys, "cluster", "up", "--dashboard-port", str(port))
    assert not (place / "state/state.json").exists()


def test_missing_token_is_refused_without_asking_ray(capsys, monkeypatch):
    monkeypatch.setitem(os.environ, "RAY_AUTH_MODE", "token")
    monkeypatch.setitem(os.environ, "RAY_AUTH_TOKEN_PATH", "gone")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert "RAY_AUTH_TOKEN_PATH gone" in refused(capsys, "distill", "digits", "--address", address)


def test_state_folder_that_others_may_write_is_refused(capsys, place):
    (place / "state").mkdir()
    (place / "state").chmod(0o777)
    assert "WMDD_STATE" in refused(capsys, "cluster", "down")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("runs/old/config.yaml", "because runs is left out"),
        ("deep/runs/config.yaml", "because deep/runs is left out"),
        ("data/my.yaml", "because data is left out"),
        ("kept/data/my.yaml", ""),
        ("secret/my.yaml", "because secret/my.yaml is left out"),  # by .gitignore
        ("kept/own.yaml", "because kept/own.yaml is left out"),  # by the folder's own
        ("kept/ray.yaml", "because kept/ray.yaml is left out"),  # by .rayignore
        ("kept/my.yaml", ""),
        ("../my.yaml", "put it into --working-dir"),
        ("kept/../../my.yaml", "put it into --working-dir"),
    ],
)
def test_config_that_does_not_travel_is_refused(capsys, place, file, message):
    pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
    work = place / "work"
    (work / file).resolve().parent.mkdir(parents=True, exist_ok=True)
    (work / "kept").mkdir(parents=True, exist_ok=True)
    (work / file).write_text("recipe: digits\n")
    (work / ".gitignore").write_text("secret/\n")
    (work / "kept/.gitignore").write_text("own.yaml\n")
    (work / "kept/.rayignore").write_text("ray.yaml\n")
    words = ("submit", "--working-dir", str(work), "--", "distill", "digits", "--config", file, *ABSOLUTE)
    line = refused(capsys, *words)
    assert (f"--config {file}: does not travel with the job" in line) == bool(message)
    assert message in line
    assert message or "--address: no cluster runs here" in line


def test_config_path_is_absolute_if_job_sees_our_files(place):
    context = click.Context(cli, info_name="wmdd")
    (place / "runs/old").mkdir(parents=True)
    (place / "runs/old/config.yaml").write_text("recipe: digits\nipc: 2\n")
    words = _check_words(context, ("distill", "--config", "runs/old/config.yaml", "--seed", "3"), here=True)
    assert words[-4:] == ("--run", f"{place}/runs/digits-ipc2-seed3", "--config", f"{place}/runs/old/config.yaml")
    shared = ("distill", "digits", "--run", "/nowhere/run", "--config", "/nowhere/my.yaml")
    with pytest.raises(ConfigError, match=r"--config /nowhere/my\.yaml: No such file"):
        _check_words(context, shared)
