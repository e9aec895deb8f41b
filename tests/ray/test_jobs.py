"""Jobs on a trial cluster: the same images as in one process, the driver's own exit status, and a soft end."""

import os
import signal
import time

import pytest
from conftest import TINY, contents, start
from trial import ready_trial

pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(request):
    """A folder that is a job's working directory, and the commands at the trial cluster."""
    return ready_trial(request)


def test_a_job_gives_the_images_of_the_run_in_one_process(place, tiny_run):
    folder = place.folder / "runs/digits"
    done = place.wmdd("submit", "--", "distill", "digits", *TINY, "--run", str(folder))
    assert done.returncode == 0, done.stderr + done.stdout
    assert contents(place.folder / "runs/store") == contents(tiny_run.store)
    assert "evaluate   4/4" in done.stdout
    name = done.stderr.split()[1]
    listed = place.wmdd("jobs").stdout
    assert name in listed
    assert "SUCCEEDED" in listed
    assert "evaluate   4/4" in place.wmdd("logs", name).stdout


def test_the_drivers_own_status_comes_back(place):
    """Only the job sees that the recipe has no images."""
    done = place.wmdd("submit", "--", "distill", "cifar10", "--run", str(place.folder / "runs/cifar10"))
    assert done.returncode == 2
    assert "wmdd: data.path: recipe cifar10 brings no images" in done.stdout
    assert done.stderr.splitlines()[-1].endswith("ended with status 2")


def test_ctrl_c_leaves_the_job_and_stop_ends_it_like_ctrl_c(place):
    words = ("distill", "digits", *TINY, "--pretrain.epochs", "100000", "--run", str(place.folder / "runs/long"))
    log = place.folder / "out"
    with open(log, "w") as out:
        command = ("submit", "--submission-id", "long", "--", *words)
        submitted = start(place.folder / "job", *command, env=place.env, stdout=out)
        limit = time.monotonic() + 120
        while "worker" not in log.read_text():
            assert time.monotonic() < limit, log.read_text()
            assert submitted.poll() is None, submitted.communicate()
            time.sleep(0.1)
        submitted.send_signal(signal.SIGINT)
        _, said = submitted.communicate(timeout=60)
    assert submitted.returncode == 130
    assert "wmdd logs long --follow" in said
    assert "wmdd stop long" in said
    again = place.wmdd(*command)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "--submission-id long" in again.stderr
    assert place.wmdd("stop", "long").stdout == "long: STOPPED\n"
    ended = place.wmdd("logs", "long").stdout
    assert "wmdd: interrupted. What was finished is kept" in ended


@pytest.mark.parametrize("words", [("logs",), ("logs", "--follow"), ("stop",)])
def test_an_unknown_job_is_told(place, words):
    asked = place.wmdd(*words, "nosuch")
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr.startswith("wmdd: nosuch: no such job at http://127.0.0.1:")
    assert asked.stderr.count("\n") == 1


def test_a_folder_that_is_too_large_is_told(place):
    large = place.folder / "large"
    large.mkdir()
    (large / "noise.bin").write_bytes(os.urandom(110 * 2**20))
    sent = place.wmdd("submit", "--working-dir", str(large), "--", "distill", "digits", "--run", "/nowhere")
    (large / "noise.bin").unlink()
    assert (sent.returncode, sent.stderr.count("\n")) == (2, 1)
    assert "--working-dir" in sent.stderr
