"""Steps for the tests of their runner."""

import os
import subprocess
import sys
import time
from pathlib import Path


def works(setting, record, value=1):
    record(value=value, result="half")
    print("not shown")
    record(result="whole")


def fails(setting, record):
    record(measured=3)
    raise ValueError("no such kernel")


def dies(setting, record):
    record(measured=4)
    os.abort()


def lasts(setting, record, mark):
    """Start a process that outlives its parent unless it is ended with it, and go on for ever."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    record(result="begun", child=child.pid)
    Path(mark).write_text(str(os.getpid()))
    time.sleep(600)


def refuses(setting, record):
    record(refused="no GPU: torch sees none")
    raise SystemExit(2)


def describes(setting, record, memory_gib):
    record(machine={"device": "NVIDIA H100 80GB HBM3", "memory_gib": memory_gib})


def notes_time(setting, record, seconds=0):
    record(at=time.monotonic())
    time.sleep(seconds)
    record(until=time.monotonic())
