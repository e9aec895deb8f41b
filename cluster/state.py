"""Where the trial cluster of this user writes what it is: addresses, processes, and its token's file."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by the time it began."""

    pid: int
    began: float

    @staticmethod
    def of(pid: int) -> Process:
        """Name a running process."""
        return Process(pid, psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """Give the process if it still runs."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.began) < 1 and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return found if same else None


@dataclass(frozen=True)
class TrialNode:
    """A node: its id in Ray, and the process that ends it when it is killed."""

    node_id: str
    raylet: Process


@dataclass(frozen=True)
class TrialCluster:
    """A cluster that `wmdd cluster up` started.

    Args:
        address: for drivers, ``127.0.0.1:PORT``.
        dashboard: for jobs and browsers, ``http://127.0.0.1:PORT``.
        folder: of Ray's logs and sockets.
        processes: all that it started.
    """

    address: str
    dashboard: str
    folder: str
    supervisor: Process
    head: TrialNode
    nodes: tuple[TrialNode, ...]
    processes: tuple[Process, ...]

    def save(self) -> None:
        """Write the state in one piece."""
        beside = state_folder() / "state.json.part"
        beside.write_text(json.dumps(asdict(self)))
        beside.replace(state_folder() / "state.json")

    @staticmethod
    def load() -> TrialCluster | None:
        """Read the state, or None when there is none."""
        try:
            facts = json.loads((state_folder() / "state.json").read_text())
        except (OSError, ValueError):
            return None
        return TrialCluster(
            address=facts["address"],
            dashboard=facts["dashboard"],
            folder=facts["folder"],
            supervisor=Process(**facts["supervisor"]),
            head=_node(facts["head"]),
            nodes=tuple(_node(node) for node in facts["nodes"]),
            processes=tuple(Process(**process) for process in facts["processes"]),
        )

    @property
    def runs(self) -> bool:
        """Whether its head is there."""
        return self.head.raylet.find() is not None


def _node(facts: dict[str, Any]) -> TrialNode:
    return TrialNode(facts["node_id"], Process(**facts["raylet"]))


def state_folder() -> Path:
    """Give the folder of the state, made for its owner alone: ``WMDD_STATE``, or below the XDG state folder."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    folder = Path(os.environ.get("WMDD_STATE") or f"{home}/wmdd/cluster").absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def token_file() -> Path:
    """Give the path of the token that every client of the cluster needs."""
    return state_folder() / "token"


def make_token() -> None:
    """Write a new token that only its owner can read."""
    token_file().unlink(missing_ok=True)
    with open(os.open(token_file(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secrets.token_hex(32))


def settings() -> dict[str, str]:
    """Give the environment that a process needs to speak with the trial cluster."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file()),
        # Every server of every process binds to loopback only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def adopt(address: str | None) -> TrialCluster | None:
    """Take up the trial cluster's settings when an address is its own (None: whatever runs); give it if so.

    Must come before Ray is imported, which reads them once.
    """
    found = TrialCluster.load()
    if found is None or not found.runs:
        return None
    ours = {found.address, found.dashboard, found.address.replace("127.0.0.1", "localhost")}
    if address is not None and address.rstrip("/").replace("//localhost", "//127.0.0.1") not in ours:
        return None
    os.environ.update(settings())
    os.environ.pop("RAY_AUTH_TOKEN", None)
    return found
