"""Commands that start Ray and get SIGTERM: as Ray starts, and while its workers are at work."""

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
    """Start a run, send SIGTERM when `when` says so of its folder and processes, and return how it ended."""
    with tempfile.TemporaryDirectory(prefix="rt", ignore_cleanup_errors=True) as short:
        more = environment(RAY_TMPDIR=short)
        process = start(folder, "distill", "digits", *TINY, *words, *OWN, env=more)
        limit = time.monotonic() + 200
        try:
            while not when(folder / "runs/digits", found := family(process)):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < limit
                time.sleep(0.02)
            sent = time.time()
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, said, found, sent


def test_sigterm_while_ray_starts_leaves_no_process(tmp_path):
    status, said, found, _ = stop(tmp_path, lambda run, started: "raylet" in started.values())
    assert (status, said) == (143, KEPT)
    assert alive(found) == []


def test_sigterm_while_workers_run_leaves_no_process(tmp_path):
    def trains(run, started):
        return any(item["stage"] == "pretrain" and item["kind"] == "progress" for item in news(run))

    status, said, found, _ = stop(tmp_path, trains, ("--pretrain.epochs", "400"))
    assert (status, said) == (143, KEPT)
    assert any(name.startswith("ray::") for name in found.values())
    assert alive(found) == []


def test_sigterm_makes_recovery_leave_a_last_snapshot(tmp_path):
    def recovers(run, started):
        return sum(item["stage"] == "recover" and item["kind"] == "progress" for item in news(run)) > 1

    # A million steps would be compiled first, and before the first step ends no snapshot can be written.
    endless = ("--recover.iterations", "1000000", "--runtime.compile", "off", "--pretrain.epochs", "1")
    status, said, found, sent = stop(tmp_path, recovers, (*endless, "--relabel.epochs", "2"))
    assert (status, said) == (143, KEPT)
    assert alive(found) == []
    notes = list((tmp_path / "runs").glob("**/resume-recover-*"))
    assert [note for note in notes if note.stat().st_mtime >= sent]
