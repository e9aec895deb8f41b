"""The processes of one trial cluster, identified by what they inherited from it, never by a name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psutil

MARK = "RAY_TMPDIR"  # the cluster's folder, whose name is random, in the environment of all that it starts


def belongs(process: psutil.Process, folder: str) -> bool:
    """Whether a process runs and is one of the cluster in `folder`.

    Some of Ray's daemons write their title over their environment; these are identified by their open log files.
    """
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        environment = process.environ()
        if environment:
            return bool(environment.get(MARK) == folder)
        return any(file.path.startswith(f"{folder}{os.sep}") for file in process.open_files())
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return False


def find(pid: int, folder: str) -> psutil.Process | None:
    """Return the process with this id if it is one of the cluster in `folder`, and not a later one with the same id."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return process if belongs(process, folder) else None
    return None


def family(folder: str) -> list[psutil.Process]:
    """Return the processes of the cluster in `folder`, including those whose parents are gone."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and belongs(process, folder)]


def end(folder: str, supervisor: int) -> int:
    """End the cluster in `folder`: its supervisor, which ends the others, then what is left; return their number."""
    pids = {process.pid for process in family(folder)}
    for processes, force in _waves(folder, supervisor):
        pids |= {process.pid for process in processes}
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill() if force else process.terminate()
        psutil.wait_procs(processes, timeout=30 if processes[0].pid == supervisor else 5)
    return len(pids)


def _waves(folder: str, supervisor: int) -> Iterator[tuple[list[psutil.Process], bool]]:
    process = find(supervisor, folder)
    if process is not None:
        yield [process], False
    for number in range(20):  # a process may start another one while it ends
        left = family(folder)
        if not left:
            return
        yield left, number > 0
