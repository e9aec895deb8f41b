"""The processes of one trial cluster, told from all others by what they inherited from it, never by a name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psutil

MARK = "RAY_TMPDIR"  # holds the cluster's own folder, whose name is drawn at random, in all that it ever starts


def belongs(process: psutil.Process, folder: str) -> bool:
    """Whether a process runs and is one of the cluster in `folder`.

    Some of Ray's daemons write their title over their environment; these are told by the logs that they hold open.
    """
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        environment = process.environ()
        if environment:
            return bool(environment.get(MARK) == folder)
        return any(held.path.startswith(f"{folder}{os.sep}") for held in process.open_files())
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return False


def find(pid: int, folder: str) -> psutil.Process | None:
    """Give the process of a number if it is one of the cluster in `folder`, and not a later one of that number."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return process if belongs(process, folder) else None
    return None


def family(folder: str) -> list[psutil.Process]:
    """List the processes of the cluster in `folder`, also those whose parents are gone."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and belongs(process, folder)]


def end(folder: str, supervisor: int, patience_s: float = 30) -> int:
    """End the cluster in `folder`: its supervisor, which ends the rest, and then what is left.

    Returns:
        How many processes there were.
    """
    met = {process.pid for process in family(folder)}
    for processes, force in _waves(folder, supervisor):
        met |= {process.pid for process in processes}
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill() if force else process.terminate()
        psutil.wait_procs(processes, timeout=patience_s if processes[0].pid == supervisor else 5)
    return len(met)


def _waves(folder: str, supervisor: int) -> Iterator[tuple[list[psutil.Process], bool]]:
    held = find(supervisor, folder)
    if held is not None:
        yield [held], False
    for number in range(20):  # a process may start another while it is being ended
        left = family(folder)
        if not left:
            return
        yield left, number > 0
