"""What a temporary Ray needs of this machine, and the line that says what is missing: no Ray is started."""

import os
import resource
import shutil
import socket
import tempfile
from types import SimpleNamespace

import pytest
from refusals import refused, without_cluster

from wmdd.errors import ConfigError, WmddError
from wmdd.process.temporary import ray_folder, shorten_tmpdir


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    return without_cluster(tmp_path, monkeypatch)


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
