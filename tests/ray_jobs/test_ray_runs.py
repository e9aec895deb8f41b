"""A run that starts Ray: it survives a lost worker and a store that fails, and leaves nothing behind."""

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from conftest import TINY, contents, environment, news, start
from striking import LOOPBACK, listens

pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
pytestmark = pytest.mark.ray


SITE = str(Path(__file__).parents[1] / "storage/site")


@pytest.fixture(scope="module")
def short_folder():
    """Ray's sockets need a short path, and a new folder keeps it apart from any other Ray."""
    folder = tempfile.mkdtemp(prefix="rt")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Watched:
    """A `wmdd distill --executor ray` in a process, with every process that it starts."""

    def __init__(self, folder, tmpdir, *words, **settings):
        self.folder, self.family, self.listening, self.niceness = folder, {}, set(), set()
        command = ("distill", "digits", *TINY, "--run", "runs/digits", "--ray.cpus_per_actor", "0.5", *words)
        out, err = open(folder / "out", "w"), open(folder / "err", "w")  # noqa: SIM115
        with out, err:
            self.process = start(
                folder, *command, env=environment(RAY_TMPDIR=tmpdir, **settings), stdout=out, stderr=err
            )

    def look(self):
        """Note the processes there are now, and what they listen on; it takes a while."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.family[child.pid] = child
        self.listening.update(address for child in self.family.values() for address in listens(child))
        for child in self.family.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                self.niceness |= {child.nice()} if child.name().startswith("ray::StageActor") else set()

    def finish(self, strike=lambda: None):
        start = looked = time.monotonic()
        while self.process.poll() is None and time.monotonic() < start + 240:
            if time.monotonic() > looked + 0.5:
                self.look()
                looked = time.monotonic()
            strike()
            time.sleep(0.05)
        self.process.kill()
        return self.process.wait(), (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def left(self):
        """The processes that outlive the run."""
        _, alive = psutil.wait_procs(self.family.values(), timeout=20)
        return [child for child in alive if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_run_survives_killed_worker_and_failing_store(short_folder, tiny_run, tmp_path):
    store, count = ("--store", f"flaky://{tmp_path}/runs/store"), str(tmp_path / "count")
    faults = {"PYTHONPATH": SITE, "FAULTY_EVERY": "41", "FAULTY_COUNT": count}
    run = Watched(tmp_path, short_folder, "--ray.actors", "1", *store, **faults)
    killed = []

    def strike():
        told = news(tmp_path / "runs/digits")
        if not killed and any(item["kind"] == "progress" for item in told):
            begun = next(item["node"] for item in told if item["kind"] == "begin")
            killed.append(int(re.search(r"process (\d+)", begun)[1]))
            os.kill(killed[0], signal.SIGKILL)

    status, out, err = run.finish(strike)
    assert (status, err) == (0, "")
    assert f"teacher: its worker on 127.0.0.1 (process {killed[0]})" in out
    assert [item["unit"] for item in news(tmp_path / "runs/digits") if item["kind"] == "retry"] == ["teacher"]
    assert "report  runs/digits/report.html" in out
    assert contents(tmp_path / "runs/store") == contents(tiny_run.store)
    assert (tmp_path / "count").stat().st_size > 5  # the store did fail
    assert "127.0.0.1" in run.listening
    assert run.listening <= LOOPBACK
    assert run.niceness == {psutil.Process().nice()}, "workers give way to every other program"
    assert len(run.family) > 3
    assert run.left() == []
