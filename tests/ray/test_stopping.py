"""Commands with a Ray of their own that are told to end: as Ray starts, and while its workers are at work."""

import signal
import tempfile
import time

import psutil
import pytest
from conftest import TINY, environment, news, start

pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.ray]
OWN = ("--executor", "ray", "--run", "runs/digits")
KEPT = "wmdd: interrupted. What was finished is kept: the same command goes on from there\n"


def family(process):
    """What a command has started, by name."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found[child] = child.name()
        except psutil.NoSuchProcess:
            continue
    return found


def alive(processes):
    return [item for item in processes if item.is_running() and item.status() != psutil.STATUS_ZOMBIE]


def stop(folder, when, words=()):
    """Start a run, send SIGTERM when `when` says so of its folder and processes, and return all that it had started."""
    with tempfile.TemporaryDirectory(prefix="rt", ignore_cleanup_errors=True) as short:
        more = environment(RAY_TMPDIR=short)
        process = start(folder, "distill", "digits", *TINY, *words, *OWN, env=more)
        limit = time.monotonic() + 200
        try:
            while not when(folder / "runs/digits", found := family(process)):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < limit
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, said, found


def test_sigterm_while_ray_starts_leaves_none_of_its_processes(tmp_path):
    status, said, found = stop(tmp_path, lambda run, started: "raylet" in started.values())
    assert (status, said) == (143, KEPT)
    assert alive(found) == []


def test_sigterm_while_workers_run_leaves_none_of_them(tmp_path):
    def trains(run, started):
        return any(item["stage"] == "pretrain" and item["kind"] == "progress" for item in news(run))

    status, said, found = stop(tmp_path, trains, ("--pretrain.epochs", "400"))
    assert (status, said) == (143, KEPT)
    assert any(name.startswith("ray::") for name in found.values())
    assert alive(found) == []
