"""A trial cluster, and the commands at it."""

import json
import socket

import psutil
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

    def start(self):
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
        return [node["pid"] for node in self.facts["nodes"]]

    def family(self):
        supervisor = psutil.Process(self.facts["supervisor"])
        return [supervisor, *supervisor.children(recursive=True)]
