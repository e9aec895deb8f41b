"""Steps for the tests of their runner."""

import os
import subprocess
import sys
import time
from pathlib import Path


def works(setting, tell, value=1):
    tell(value=value, result="half")
    print("not shown")
    tell(result="whole")


def fails(setting, tell):
    tell(measured=3)
    raise ValueError("no such kernel")


def dies(setting, tell):
    tell(measured=4)
    os.abort()


def lasts(setting, tell, mark):
    """Start a process that outlives its parent unless it is ended with it, and go on for ever."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tell(result="begun", child=child.pid)
    Path(mark).write_text(str(os.getpid()))
    time.sleep(600)


def refuses(setting, tell):
    tell(refused="no GPU: torch sees none")
    raise SystemExit(2)


def describes(setting, tell, memory_gib):
    tell(machine={"device": "NVIDIA H100 80GB HBM3", "memory_gib": memory_gib})


def notes_time(setting, tell, seconds=0):
    tell(at=time.monotonic())
    time.sleep(seconds)
    tell(until=time.monotonic())
