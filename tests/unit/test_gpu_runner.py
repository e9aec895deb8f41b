"""The runner of the GPU's steps: whatever a step does, what it measured is kept and the others run."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu.runner import Session
from benchmarks.gpu.steps import STEPS, Setting, Step

ROOT = Path(__file__).parents[2]


def step(name, limit_s=60, **arguments):
    return Step(name, f"gpu_steps:{name}", limit_s, arguments)


def session(folder, *steps, seconds=120):
    """The exit status and the lines of some steps."""
    setting = Setting(True, None, None, str(folder), str(folder))
    status = Session(multiprocessing.get_context("forkserver"), setting, seconds).run(steps)
    return status, lines(folder)


def lines(folder):
    path = folder / "gpu-toy.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def gone(pid):
    """Whether a process has ended, or will at once."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_steps_run_one_by_one_and_leave_a_line_each(tmp_path, capsys):
    status, (first, second) = session(tmp_path, step("works"), step("works", value=2))
    assert status == 0
    assert (first["ended"], first["value"], second["value"]) == ("done", 1, 2)
    assert first["result"] == "whole"
    shown = capsys.readouterr().out
    assert shown.count("works") == 4  # as it ends, and in the table
    assert "not shown" not in shown


@pytest.mark.parametrize(("name", "measured"), [("fails", 3), ("dies", 4)])
def test_a_failing_step_keeps_its_figures_and_the_next_one_runs(tmp_path, name, measured):
    status, (failed, worked) = session(tmp_path, step(name), step("works"))
    assert status == 1
    assert (failed["ended"], failed["measured"], worked["ended"]) == ("failed", measured, "done")
    if name == "fails":
        assert failed["log"][-1] == "ValueError: no such kernel"


def test_a_step_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    status, (cut, worked) = session(tmp_path, step("lasts", limit_s=6, mark=str(tmp_path / "mark")), step("works"))
    assert (cut["ended"], cut["limit_s"], cut["result"], worked["ended"]) == ("cut", 6, "begun", "done")
    assert gone(cut["child"])
    assert status == 1  # of a rehearsal; on a GPU the next call goes on


def test_without_time_or_data_steps_are_skipped_and_say_so(tmp_path):
    _, (line,) = session(tmp_path, step("works"), seconds=1)
    assert (line["ended"], line["result"]) == ("skipped", "no time is left")
    on_gpu = Setting(False, None, None, "", "")
    assert STEPS["cifar10"].skip(on_gpu) == "give --data"
    assert STEPS["tiny"].skip(on_gpu) == "give --tiny"
    assert STEPS["tests"].skip(on_gpu) == ""


def test_without_a_gpu_nothing_is_written(tmp_path, capsys):
    status, found = session(tmp_path, step("no_gpu"), step("works"))
    assert (status, found) == (2, [])
    assert "make gpu TOY=1" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_its_line_and_no_process(tmp_path, number):
    mark = tmp_path / "mark"
    code = (
        "import multiprocessing, sys; from test_gpu_runner import session, step; from pathlib import Path;"
        f"sys.exit(session(Path({str(tmp_path)!r}), step('lasts', mark={str(mark)!r}))[0])"
    )
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    # A suite that runs in the background was told to ignore Ctrl-C, and its children would be too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    while not mark.exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
    assert gone(int(mark.read_text()))
    if number != signal.SIGKILL:
        (line,) = lines(tmp_path)
        assert (line["ended"], line["result"]) == ("stopped", "begun")
        assert gone(line["child"])


@pytest.mark.parametrize("name", STEPS)
def test_every_step_names_a_function(name):
    assert callable(STEPS[name].load())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--steps", "speed"], "--steps speed: there is no such step; choose from machine,"),
        (["--minutes", "0"], "--minutes 0: must be above 0"),
        (["--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--tiny", "nowhere", "--toy"], "--tiny nowhere: there is no such folder"),
    ],
)
def test_wrong_options_are_one_line(words, line):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1
