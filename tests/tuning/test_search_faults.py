"""Searches that are interrupted, and whose workers and drivers are killed, on a real Ray Tune."""

import io
import os
import signal
import time

import psutil
import pyarrow.parquet as pq
import pytest
from conftest import contents, environment, run, start
from searches import WORDS, prepare, short_folder

pytest.importorskip("ray", reason="the extra wmdd[tune] is not installed")
pytest.importorskip("optuna", reason="the extra wmdd[tune] is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("tuning"))


@pytest.fixture
def short():
    with short_folder() as folder:
        yield folder


def test_interrupted_search_goes_on(prepared, tmp_path, short):
    words = ("tune", "digits", *WORDS, "--recover.iterations", 150, "--tune.samples", 3, "--tune.stop_early", "false")
    words += ("--run", tmp_path / "t", "--store", prepared.store_url)
    log, limit = tmp_path / "out", time.monotonic() + 400
    with open(log, "w") as out:
        process = start(tmp_path, *words, env=environment(RAY_TMPDIR=short), stdout=out)
    try:
        while "tune: level" not in log.read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said.splitlines()[-1]
    assert not (tmp_path / "t/best.yaml").exists()
    result = run(tmp_path, *words, env=environment(RAY_TMPDIR=short))
    assert result.returncode == 0, result.stderr
    rows = pq.read_table(io.BytesIO((tmp_path / "t/trials.parquet").read_bytes())).to_pylist()
    assert [row["stop"] for row in rows] == ["finished"] * 3


def test_killed_worker_and_driver_lose_no_trial(prepared, tmp_path, short):
    words = ("tune", "digits", *WORDS, "recover.lr=choice:0.1,1e38", "recover.feature_weight=choice:1,1e38")
    words += ("--recover.iterations", 300, "--relabel.epochs", 24)  # long enough to be hit
    words += ("--tune.samples", 4, "--tune.concurrent", 1, "--run", tmp_path / "t", "--store", prepared.store_url)
    log, killed, limit = tmp_path / "out", False, time.monotonic() + 400
    with open(log, "w") as out:
        process = start(tmp_path, *words, env=environment(RAY_TMPDIR=short), stdout=out)
    try:
        while log.read_text().count("tune: level") < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, log.read_text()
            if "tune: level" in log.read_text() and not killed:
                for worker in psutil.Process(process.pid).children(recursive=True):
                    if worker.cmdline()[:1] and "ImplicitFunc" in worker.cmdline()[0]:
                        os.kill(worker.pid, signal.SIGKILL)
                        killed = True
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
    process.communicate()
    assert killed
    psutil.wait_procs(family, timeout=30)
    before = contents(prepared.store_url)
    result = run(tmp_path, "tune", "--resume", tmp_path / "t", env=environment(RAY_TMPDIR=short))
    assert result.returncode == 0, result.stderr
    assert "goes on" in result.stdout
    assert before.items() <= contents(prepared.store_url).items()
    rows = pq.read_table(io.BytesIO((tmp_path / "t/trials.parquet").read_bytes())).to_pylist()
    assert len(rows) == 4
    assert all(row["score"] == 0 for row in rows if row["stop"].startswith("recover of"))
    again = run(tmp_path, *words, "--tune.seed", 9, env=environment(RAY_TMPDIR=short))
    assert again.returncode == 2
    assert "holds another search (--tune.seed differs)" in again.stderr
