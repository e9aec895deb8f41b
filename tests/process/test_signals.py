"""Signals that end a command, sent to small programs that handle them as the command does."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

PROGRAM = """
import multiprocessing, os, signal, subprocess, sys, time
from wmdd.process import interruptions

def wait():
    print("ready", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with interruptions.handled():
        interruptions.announce("wmdd: kept")
        {body}
"""
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture
def begin(tmp_path):
    """Start a program whose body is given, and wait until it says "ready"; return it, and what it said before."""
    begun = []

    def begin(body, *, ignored=None):
        path = tmp_path / "program.py"
        path.write_text(PROGRAM.format(body=body.strip().replace("\n", "\n        ")))
        ignore = f"import signal, os, sys; signal.signal({int(ignored or 0)}, signal.SIG_IGN);"
        words = ["-c", f"{ignore} os.execv(sys.executable, [sys.executable, {str(path)!r}])"] if ignored else [path]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite may run under nohup
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, *words], **pipes)
        begun.append(process)
        said = []
        while (line := process.stdout.readline()) not in ("ready\n", ""):
            said.append(line.strip())
        return process, said

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def ended(process, number=signal.SIGTERM):
    """Send a signal to a program, which ends with its line and the signal's status; return what else it wrote."""
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (err, process.returncode) == ("wmdd: kept\n", STATUS[number])
    return out


def has_ended(child):
    return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", list(STATUS))
def test_signal_ends_the_command_with_its_status(begin, number):
    ended(begin("wait()")[0], number)


def test_handlers_of_libraries_do_not_count(begin):
    """Ray sets handlers in Python and below it; here the one below is faulthandler's, which ends the process, too."""
    process, _ = begin(
        "import faulthandler\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(15))\n"
        "faulthandler.register(signal.SIGTERM, chain=True)\n"
        "wait()"
    )
    ended(process)


@pytest.mark.parametrize("number", list(STATUS))
def test_second_signal_ends_all_processes_at_once(begin, number):
    process, said = begin(
        "print(subprocess.Popen(['sleep', '60']).pid)\n"
        "try:\n"
        "    wait()\n"
        "except KeyboardInterrupt:\n"
        "    print('ends', flush=True)\n"
        "    while True:\n"
        "        time.sleep(60)"
    )
    child = psutil.Process(int(said[0]))
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "ends\n"
    while process.poll() is None:  # those that come very soon after the first are taken for the same one
        process.send_signal(number)
    assert process.stderr.read() == "wmdd: kept\n"
    assert process.returncode == 143
    assert has_ended(child)


def test_main_thread_that_does_not_end_is_ended(begin):
    process, said = begin(
        "interruptions.GRACE_S = 0.2\n"
        "print(subprocess.Popen(['sleep', '60']).pid)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        pass"
    )
    child = psutil.Process(int(said[0]))
    ended(process)
    assert has_ended(child)


def test_signal_while_ray_starts_ends_at_once(begin):
    body = "with interruptions.at_once():\n    try:\n        wait()\n    finally:\n        print('unwound', flush=True)"
    for number in (signal.SIGTERM, signal.SIGINT):
        assert ended(begin(body)[0], number) == ""


@pytest.mark.parametrize("number", list(STATUS))
def test_signal_that_was_ignored_at_the_start_stays_so(begin, number):
    """SIGHUP under nohup, and Ctrl-C in the background of a shell."""
    process, _ = begin("wait()", ignored=number)
    process.send_signal(number)
    ended(process, signal.SIGHUP if number == signal.SIGTERM else signal.SIGTERM)


def test_children_can_be_ended_with_sigterm(begin):
    """Those that Ray starts, and loaders, which say so themselves."""
    process, said = begin(
        "print(subprocess.Popen(['sleep', '60'], preexec_fn=lambda: None).pid)\n"
        "loader = multiprocessing.get_context('spawn').Process(target=interruptions.accept)\n"
        "loader.start(); loader.join(); print(loader.exitcode)\n"
        "wait()"
    )
    assert said[1] == "0"
    os.kill(int(said[0]), signal.SIGTERM)
    child = psutil.Process(int(said[0]))
    while child.status() != psutil.STATUS_ZOMBIE:
        pass
    ended(process)


def test_error_after_a_signal_is_the_interruption(begin):
    process, _ = begin(
        "with interruptions.before_errors():\n"
        "    try:\n"
        "        wait()\n"
        "    except KeyboardInterrupt:\n"
        "        raise RuntimeError('a worker has gone')"
    )
    ended(process)


def test_program_that_calls_wmdd_keeps_its_handlers():
    from ray_jobs.connect import _kept_sigterm

    for own in (lambda *_: None, signal.SIG_DFL, signal.SIG_IGN):
        before = signal.signal(signal.SIGTERM, own)
        try:
            with _kept_sigterm():
                signal.signal(signal.SIGTERM, lambda *_: os._exit(15))
            assert signal.getsignal(signal.SIGTERM) == own
        finally:
            signal.signal(signal.SIGTERM, before)


IMPORTS = """
import runpy, sys
class Slow:
    def find_spec(name, path=None, target=None):
        if name == "wmdd.cli.main":
            print("imports", flush=True)
            sys.stdin.readline()
sys.meta_path.insert(0, Slow)
sys.argv = ["wmdd", "recipes"]
runpy.run_module("wmdd", run_name="__main__", alter_sys=True)
"""


def test_command_is_interrupted_while_it_imports():
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", IMPORTS], **pipes)
    assert process.stdout.readline() == b"imports\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(b"\n", timeout=30)[1].decode().splitlines() == ["wmdd: interrupted"]
    assert process.returncode == 143


def test_interruption_in_a_finalizer_is_not_dropped(begin):
    process, _ = begin(
        "class Held:\n"
        "    def __del__(self):\n"
        "        wait()\n"
        "Held()\n"
        "with interruptions.before_errors():\n"
        "    time.sleep(60)"
    )
    ended(process)


STEPS = """
from wmdd.outputs import SnapshotClock
clock = SnapshotClock({size})
print("ready", flush=True)
for step in range(10**6):
    time.sleep(0.01)
    if clock.is_due():
        clock.begin()
        print("saved", flush=True)
        clock.end()
"""


@pytest.mark.parametrize(("size", "said"), [(1000, "saved\n"), (2**40, "")], ids=["small", "takes long"])
@pytest.mark.parametrize("number", list(STATUS))
def test_work_leaves_a_last_snapshot_if_that_is_quick(begin, size, said, number):
    assert ended(begin(STEPS.format(size=size))[0], number) == said


def test_worker_of_ray_leaves_a_last_snapshot():
    steps = STEPS.format(size=1000).replace("\n", "\n    ")
    program = (
        "import os, signal, threading, time\n"
        "from ray_jobs.actors import save_on_sigterm\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
        "save_on_sigterm()\n"
        f"def work():{steps}\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "while True:\n"
        "    time.sleep(0.01)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "saved\n"
    assert process.returncode == 7
