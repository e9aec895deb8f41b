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

from benchmarks import machine, recovery
from benchmarks.runner import Session
from benchmarks.steps import STEPS, Setting, Step

ROOT = Path(__file__).parents[2]


def step(name, limit_s=60, beside="", **arguments):
    return Step(name, f"gpu_steps:{name}", limit_s, arguments, beside=beside)


def session(folder, *steps, seconds=120, toy=True):
    """The exit status and the lines of some steps."""
    setting = Setting(toy, None, None, str(folder), str(folder))
    status = Session(multiprocessing.get_context("forkserver"), setting, seconds).run(steps)
    return status, lines(folder)


def lines(folder):
    return [json.loads(line) for path in folder.glob("gpu-*.jsonl") for line in path.read_text().splitlines()]


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
    assert first["toy"] is True
    assert first["run"] == second["run"]
    assert first["commit"]
    shown = capsys.readouterr().out
    assert shown.count("works") == 6  # as each begins, as it ends, and in the table
    assert "not shown" not in shown
    assert (tmp_path / "gpu-toy.log").read_text().count("not shown") == 2


def test_lines_carry_the_card_and_its_name(tmp_path):
    _, (first, second) = session(tmp_path, step("describes", memory_gib=80), step("works"), toy=False)
    assert first["machine"] == second["machine"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "gpu-nvidia-h100-80gb-hbm3.jsonl",
        "gpu-nvidia-h100-80gb-hbm3.log",
    }


@pytest.mark.parametrize(("memory_gib", "together"), [(80, True), (8, False)])
def test_steps_share_a_card_that_holds_both(tmp_path, memory_gib, together):
    aside = step("notes_time", beside="works", seconds=2)
    _, found = session(tmp_path, step("describes", memory_gib=memory_gib), aside, step("works"), toy=False)
    ended = [line["step"] for line in found]
    assert ended == ["describes", *(("works", "notes_time") if together else ("notes_time", "works"))]
    (tmp_path / "alone").mkdir()
    _, found = session(tmp_path / "alone", aside, step("fails"))
    assert [line["step"] for line in found] == ["notes_time", "fails"]  # only while the step that it names runs


@pytest.mark.parametrize(("name", "measured"), [("fails", 3), ("dies", 4)])
def test_failing_step_keeps_its_figures(tmp_path, name, measured):
    status, (failed, worked) = session(tmp_path, step(name), step("works"))
    assert status == 1
    assert (failed["ended"], failed["measured"], worked["ended"]) == ("failed", measured, "done")
    if name == "fails":
        assert failed["log"][-1] == "ValueError: no such kernel"


def test_slow_step_is_ended_with_its_children(tmp_path):
    status, (cut, worked) = session(tmp_path, step("lasts", limit_s=6, mark=str(tmp_path / "mark")), step("works"))
    assert (cut["ended"], cut["limit_s"], cut["result"], worked["ended"]) == ("cut", 6, "begun", "done")
    assert gone(cut["child"])
    assert status == 1  # of a rehearsal; on a GPU the next call goes on


def test_no_step_outlasts_the_time_of_its_run(tmp_path):
    lasts = step("lasts", limit_s=600, mark=str(tmp_path / "mark"))
    _, (cut, skipped) = session(tmp_path, lasts, step("works"), seconds=6)
    assert cut["ended"] == "cut"
    assert cut["limit_s"] <= 6
    assert (skipped["ended"], skipped["result"]) == ("skipped", "no time is left")


def test_steps_without_time_or_data_are_skipped(tmp_path):
    _, (line,) = session(tmp_path, step("works"), seconds=1)
    assert (line["ended"], line["result"]) == ("skipped", "no time is left")
    on_gpu = Setting(False, None, None, "", "")
    assert STEPS["gpu"]["cifar10"].skip(on_gpu) == "give --data"
    assert STEPS["gpu"]["tiny"].skip(on_gpu) == "give --tiny"
    assert STEPS["gpu"]["tests"].skip(on_gpu) == ""


def test_refused_machine_is_one_line_writing_nothing(tmp_path, capsys):
    status, _ = session(tmp_path, step("refuses"), step("works"))
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert capsys.readouterr().err == "no GPU: torch sees none\n"


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_early_signal_ends_this_run_alone(tmp_path, number):
    """The process that steps are forked from imports for seconds, in which no step has a process yet."""
    (tmp_path / "slow_import.py").write_text("import time; time.sleep(5)")
    code = (
        "import multiprocessing, sys; from test_gpu_runner import session, step; from pathlib import Path;"
        "multiprocessing.set_forkserver_preload(['slow_import']);"
        f"print('begun', flush=True); sys.exit(session(Path({str(tmp_path)!r}), step('works'))[0])"
    )
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), str(tmp_path)])
    shell = f'{sys.executable} -c "{code}" & echo $!; wait $!; echo ended $?'
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        ["bash", "-c", shell],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pid = int(process.stdout.readline())
    while "begins" not in process.stdout.readline():
        pass
    time.sleep(0.5)
    os.kill(pid, number)
    assert process.communicate(timeout=60)[0].splitlines()[-1] == f"ended {128 + number}"


def test_folder_without_images_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: True)
    refusal = machine._refusal(Setting(False, str(tmp_path), None, "", ""))
    assert refusal.startswith(f"--data {tmp_path}: holds no images; expected")
    assert machine._refusal(Setting(False, "torchvision:CIFAR10", None, "", "")) == ""


def test_recovery_is_measured_without_a_compiler(monkeypatch):
    monkeypatch.setattr(recovery, "compiler_failure", lambda device: "no C compiler")
    told = {}
    recovery.run(Setting(True, None, None, "", ""), lambda **figures: told.update(figures), 32, 1000)
    assert told["compiler_failure"] == "no C compiler"
    ways = {"wmdd, not compiled", "wmdd, not compiled, not deterministic", "wmdd, fp32", "network alone"}
    assert set(told["ways"]) == ways | {"plain, fp32", "plain, TF32"}
    assert {"profile", "memory", "more_images"} <= set(told)
    assert told["result"].startswith("4 images, wmdd, not compiled in ")


@pytest.mark.parametrize(("on", "name"), [(on, name) for on, steps in STEPS.items() for name in steps])
def test_every_step_names_a_function(on, name):
    assert callable(STEPS[on][name].load())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--steps", "speed"], "--steps speed: there is no such step; choose from machine,"),
        (["--full"], "--full: the steps on a GPU have one form; leave it out"),
        (["--minutes", "0"], "--minutes 0: must be a number above 0"),
        (["--minutes", "nan"], "--minutes nan: must be a number above 0"),
        (["--toy", "--out", "/dev/null"], "--out /dev/null: cannot be written (File exists); give another folder"),
        (["--toy", "--work", "/dev/null/x"], "--work /dev/null/x: cannot be written (Not a directory)"),
        (["--data", "nowhere"], "--data nowhere: there is no such file or folder"),
        (["--tiny", "nowhere", "--toy"], "--tiny nowhere: there is no such file or folder"),
    ],
)
def test_wrong_options_are_one_line(words, line):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        (["gpu", "STEPS=tests,tiny"], "gpu --toy --out 'results' --data 'my images' --steps 'tests,tiny'"),
        (["bench", "FULL=1"], "cpu --full --toy --out 'results' --data 'my images'"),
        (["bench", "FULL=0"], "cpu --toy --out 'results' --data 'my images'"),
        (["gpu", "FULL=1"], "gpu --full --toy --out 'results' --data 'my images'"),
    ],
)
def test_make_passes_options_and_no_other_variables(asked, command):
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of make test
    environment = outside | {"WORK": "/scratch/me", "DATA": "/data", "FULL": "1", "OUT": "results"}
    words = ["make", "-n", *asked, "TOY=1", "DATA=my images"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"-m benchmarks {command}")


def test_make_lets_python_keep_what_it_compiled(tmp_path):
    (tmp_path / "more").write_text("kept:\n\t@echo kept $$PYTHONDONTWRITEBYTECODE\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # of make test
    asked = ["make", "-f", "Makefile", "-f", str(tmp_path / "more"), "kept"]
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "kept\n"), done.stderr
