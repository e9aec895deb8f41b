"""The commands around clusters, without one: what is refused before anything starts, and whose processes are whose."""

import contextlib
import http.server
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from types import SimpleNamespace

import click
import pytest

from cluster.jobs import proxy_for, spare_loopback
from cluster.processes import end, family, find
from cluster.state import TrialCluster, TrialNode, adopt, make_token, token_file
from wmdd.cli.jobs import _check_words
from wmdd.cli.main import cli, main
from wmdd.errors import ConfigError, WmddError
from wmdd.process.temporary import ray_folder, shorten_tmpdir

ABSOLUTE = ("--run", "/nowhere/run")
AT = ("--address", "http://127.0.0.1:1")


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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.3.2.1"])
@pytest.mark.parametrize("before", [None, "example.org, 10.0.0.0/8", "*"])
def test_loopback_is_reached_without_proxy(monkeypatch, host, before):
    for name in ("http_proxy", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    if before:
        monkeypatch.setitem(os.environ, "NO_PROXY", before)
    url = f"http://{host}:8265"
    if before != "*":
        assert proxy_for(url) == "http_proxy"
    spare_loopback(url)
    assert proxy_for(url) == ""
    assert proxy_for("http://example.org") == ("" if before else "http_proxy")
    assert proxy_for("http://head.example.com:8265") == ("" if before == "*" else "http_proxy")


def test_jobs_of_this_machine_need_no_proxy(capsys, monkeypatch):
    monkeypatch.setitem(os.environ, "http_proxy", "http://127.0.0.1:9")
    with server(b"no job server") as url:
        assert "is no job server of Ray" in refused(capsys, "jobs", "--address", url)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_proxy_that_does_not_reach_cluster_is_named(capsys, monkeypatch, name):
    monkeypatch.setitem(os.environ, name, "http://127.0.0.1:1")
    line = refused(capsys, "jobs", "--address", "http://head.example.com:8265")
    assert f"through the proxy of {name} (" in line
    assert "set no_proxy=head.example.com" in line


@contextlib.contextmanager
def server(text):
    """A web server on this machine that answers everything with a text."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as held:
        thread = threading.Thread(target=held.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{held.server_port}"
        finally:
            held.shutdown()
            thread.join()


LONG = "/scratch/people/someone/slurm_jobdir/1355700/node0016/tmp"


def test_ray_gets_a_short_folder_if_tmpdir_is_long(monkeypatch, place):
    long = place / LONG[1:]
    long.mkdir(parents=True)
    monkeypatch.setitem(os.environ, "TMPDIR", str(long))
    monkeypatch.setattr("wmdd.process.temporary.SHORT", (short := tempfile.mkdtemp(prefix="w"),))
    try:
        assert ray_folder() == f"{short}/wmdd-{os.getuid()}"
        assert os.stat(ray_folder()).st_mode & 0o777 == 0o700
        os.chmod(ray_folder(), 0o777)  # others could put links there
        with pytest.raises(ConfigError, match=rf"^TMPDIR {long}: is too long for Ray's sockets .*; set RAY_TMPDIR to"):
            ray_folder()
    finally:
        shutil.rmtree(short)


def test_processes_pass_data_if_tmpdir_is_too_long(monkeypatch, place):
    """The listener is what queues of tensors open between processes."""
    long = place / LONG[1:]
    long.mkdir(parents=True)
    monkeypatch.setitem(os.environ, "TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    shorten_tmpdir()
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == f"/tmp/wmdd-{os.getuid()}"
    with tempfile.TemporaryDirectory(prefix="pymp-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/listener-12345678")
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr("wmdd.process.temporary.SHORT", ())
    with pytest.raises(ConfigError, match=rf"^TMPDIR {long}: is too long for sockets; set TMPDIR to a short folder"):
        shorten_tmpdir()


@pytest.mark.parametrize("command", [("distill", "digits"), ("cluster", "up")])
def test_long_tmpdir_without_short_folder_is_an_error(capsys, monkeypatch, place, command):
    monkeypatch.setitem(os.environ, "TMPDIR", LONG)
    monkeypatch.setattr("wmdd.process.temporary.SHORT", ())
    line = refused(capsys, *command, *(("--run", str(place / "run")) if command[0] == "distill" else ()))
    assert line.startswith(f"wmdd: TMPDIR {LONG}: is too long for Ray's sockets")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("gone", "there is no such folder"),
        ("file", "is a file"),
        ("full", r"has no room left \(1 MiB\)"),
        ("relative", "is no absolute path"),
        ("closed", "may not be written to"),
    ],
)
def test_folder_that_ray_cannot_use_is_refused(monkeypatch, folder, message):
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as place:
        path = "relative" if folder == "relative" else f"{place}/{folder}"
        if folder == "file":
            open(path, "w").close()
        elif folder in ("full", "closed"):
            os.mkdir(path)
        if folder == "full":
            monkeypatch.setattr(shutil, "disk_usage", lambda at: SimpleNamespace(free=2**20 if at == path else 2**40))
        if folder == "closed":
            monkeypatch.setattr(os, "access", lambda at, mode: at != path)
        monkeypatch.setitem(os.environ, "TMPDIR", path)
        monkeypatch.setattr("wmdd.process.temporary.SHORT", (place,))
        assert ray_folder() == f"{place}/wmdd-{os.getuid()}"
        monkeypatch.setattr("wmdd.process.temporary.SHORT", ())
        with pytest.raises(ConfigError, match=rf"^TMPDIR {path}: {message}; set RAY_TMPDIR to a short folder"):
            ray_folder()
        if folder == "gone":
            return  # which Ray would make, too
        monkeypatch.setitem(os.environ, "RAY_TMPDIR", path)
        with pytest.raises(ConfigError, match=rf"^RAY_TMPDIR {path}: "):
            ray_folder()


def test_user_without_home_can_keep_cluster_state(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for name in ("WMDD_STATE", "XDG_STATE_HOME"):
        os.environ.pop(name, None)
    assert token_file().is_relative_to(tempfile.gettempdir())
    assert adopt(None) is None


def test_ray_that_does_not_start_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
    from ray_jobs.connect import connect

    def init(**options):
        raise Exception("The current node timed out\nduring startup.")  # as Ray's own node does after 30 s

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(WmddError, match=r"^Ray does not start .*timed out during startup.*--executor local"):
        connect(None)


def test_a_closed_loopback_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
    from ray_jobs.connect import connect

    def refuse(address, timeout):
        raise OSError(101, "Network is unreachable")  # as where `lo` is down; Ray itself waits for minutes

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(WmddError, match=r"^Ray does not start .*127\.0\.0\.1, .*unreachable.*--executor local"):
        connect(None)


def test_a_limit_of_address_space_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
    from ray_jobs.connect import connect

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))  # it aborts the process
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (5_000_000 * 1024, resource.RLIM_INFINITY))
    with pytest.raises(WmddError, match=r"^Ray does not start under ulimit -v 5000000 .*--executor local"):
        connect(None)


def test_temporary_ray_maps_little_memory(monkeypatch):
    """Each process maps the whole object store, by default a third of the memory: too much for ulimit -v."""
    ray = pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
    from ray_jobs.connect import connect

    asked = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    assert connect(None)
    assert asked["object_store_memory"] <= 2**29
