"""Searches that are interrupted, and whose workers and drivers are killed, on a real Ray Tune."""

import io
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


def levels(log):
    return log.read_text().count("tune: level")


def strike(folder, words, short, moment, act):
    """Start a search, act on its process when `moment` says so of its output, and return how it ended."""
    log, limit = folder / "out", time.monotonic() + 400
    with open(log, "w") as out:
        process = start(folder, *words, env=environment(RAY_TMPDIR=short), stdout=out)
    try:
        while not moment(process, log):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        act(process)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    psutil.wait_procs(family, timeout=30)
    return process.returncode, stderr


def kill_trial(process):
    for worker in psutil.Process(process.pid).children(recursive=True):
        if worker.cmdline()[:1] and "ImplicitFunc" in worker.cmdline()[0]:
            worker.kill()
            return True
    return False


def test_ended_search_goes_on_and_loses_no_trial(prepared, tmp_path, short):
    """Ctrl-C in the first trial, then a killed worker and a killed driver, then the rest."""
    words = ("tune", "digits", *WORDS, "recover.lr=choice:0.1,1e38", "recover.feature_weight=choice:1,1e38")
    words += ("--recover.iterations", 300, "--relabel.epochs", 24)  # long enough to be hit
    words += ("--tune.samples", 4, "--tune.concurrent", 1, "--run", tmp_path / "t", "--store", prepared.store_url)
    interrupt = lambda process: process.send_signal(signal.SIGINT)  # noqa: E731
    status, stderr = strike(tmp_path, words, short, lambda process, log: levels(log) >= 1, interrupt)
    assert status == 130, stderr
    assert "the same command goes on from there" in stderr.splitlines()[-1]
    assert not (tmp_path / "t/best.yaml").exists()
    first, killed = contents(prepared.store_url), []

    def worker_killed(process, log):
        if levels(log) >= 1 and not killed and kill_trial(process):
            killed.append(levels(log))
        return killed and levels(log) > killed[0]

    strike(tmp_path, words, short, worker_killed, lambda process: process.kill())
    before = contents(prepared.store_url)
    assert first.items() <= before.items()
    result = run(tmp_path, "tune", "--resume", tmp_path / "t", env=environment(RAY_TMPDIR=short))
    assert result.returncode == 0, result.stderr
    assert "goes on" in result.stdout
    assert before.items() <= contents(prepared.store_url).items()
    rows = pq.read_table(io.BytesIO((tmp_path / "t/trials.parquet").read_bytes())).to_pylist()
    assert len(rows) == 4
    assert "finished" in {row["stop"] for row in rows}
    assert all(row["score"] == 0 for row in rows if row["stop"].startswith("recover of"))
    again = run(tmp_path, *words, "--tune.seed", 9, env=environment(RAY_TMPDIR=short))
    assert again.returncode == 2
    assert "holds another search (--tune.seed differs)" in again.stderr
