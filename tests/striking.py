"""How tests of faults find processes, and wait for what follows."""

import contextlib
import re
import shutil
import time

import psutil

from wmdd.commands.distill import distill

LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def listens(process):
    """The addresses that a process listens on; none if it is gone."""
    with contextlib.suppress(psutil.Error, FileNotFoundError):
        return {item.laddr.ip for item in process.net_connections("inet") if item.status == psutil.CONN_LISTEN}
    return set()


def workers(node=None):
    """The worker processes of a node, or of all nodes."""
    processes = []
    for child in psutil.Process(node).children(recursive=True) if node else psutil.Process().children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::StageActor"):
                processes.append(child)
        except psutil.Error:
            continue
    return processes


def runs(pid):
    """Whether a process runs and is no zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def process_of(event):
    """The id of the process that began a task."""
    return int(re.search(r"process (\d+)", event.node)[1])


def ray_run(config, folder, listener=lambda event: None):
    return distill(config, run=f"{folder}/run", store=f"{folder}/store", executor="ray", listener=listener)


def store_without(tiny_run, folder, *stages):
    """Copy the store of the undisturbed run, without some of its stages."""
    shutil.copytree(tiny_run.store, f"{folder}/store")
    for stage in stages:
        shutil.rmtree(f"{folder}/store/{stage}")


def raylet_pid(node):
    return node.all_processes["raylet"][0].process.pid


def wait(condition, process=None, every_s=0.05):
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(every_s)
