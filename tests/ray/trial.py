"""One trial cluster for the tests of jobs and of the cluster itself; what a test broke is begun anew."""

import json
import socket

import psutil
import pytest
from conftest import environment, run


class Trial:
    """A cluster of two nodes with a CPU and a claimed GPU each, and the commands at it."""

    def __init__(self, folder):
        self.folder, self.state = folder, folder / "state"
        self.env = environment(WMDD_STATE=str(self.state))
        (folder / "job").mkdir()
        self.up = None

    def wmdd(self, *words):
        return run(self.folder / "job", *words, env=self.env)

    def heal(self):
        """Begin anew unless both nodes are there."""
        if self.up is None or not all(self.is_alive(node) for node in self.nodes):
            self.down()
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = str(server.getsockname()[1])
            self.up = self.wmdd("cluster", "up", "--nodes", "2", "--gpus-per-node", "1", "--dashboard-port", port)
            assert self.up.returncode == 0, self.up.stderr

    def down(self):
        if (self.state / "state.json").exists():
            assert self.wmdd("cluster", "down").returncode == 0

    @property
    def facts(self):
        return json.loads((self.state / "state.json").read_text())

    @property
    def nodes(self):
        """The numbers of the raylets, the head's first."""
        return [node["pid"] for node in self.facts["nodes"]] if (self.state / "state.json").exists() else [0]

    @staticmethod
    def is_alive(pid):
        return pid > 0 and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE

    def family(self):
        supervisor = psutil.Process(self.facts["supervisor"])
        return [supervisor, *supervisor.children(recursive=True)]


SHARED = pytest.StashKey()


def ready_trial(request):
    """The session's trial cluster, with all its nodes."""
    kept = request.config.stash
    if SHARED not in kept:
        kept[SHARED] = Trial(request.getfixturevalue("tmp_path_factory").mktemp("trial"))
        request.config.add_cleanup(kept[SHARED].down)
    kept[SHARED].heal()
    return kept[SHARED]
