"""Where the trial cluster of this user writes what it is: addresses, processes, and its token's file."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.processes import find
from wmdd.errors import ConfigError


@dataclass(frozen=True)
class TrialNode:
    """A node: its id in Ray, and the process that ends it when it is killed."""

    node_id: str
    pid: int


@dataclass(frozen=True)
class TrialCluster:
    """A cluster that `wmdd cluster up` started, or is about to.

    Args:
        folder: of Ray's logs and sockets; it marks the cluster's processes.
        supervisor: the process that holds the cluster.
        address: for drivers, ``127.0.0.1:PORT``; empty until it is up.
        dashboard: for jobs and browsers, ``http://127.0.0.1:PORT``.
        nodes: the head first.
    """

    folder: str
    supervisor: int
    address: str = ""
    dashboard: str = ""
    nodes: tuple[TrialNode, ...] = ()

    def save(self) -> None:
        """Write the state in one piece."""
        beside = state_folder() / "state.json.part"
        beside.write_text(json.dumps(asdict(self)), encoding="utf-8")
        beside.replace(state_folder() / "state.json")

    @staticmethod
    def load() -> TrialCluster | None:
        """Read the state, or None when there is none."""
        try:
            facts = json.loads((_place() / "state.json").read_text(encoding="utf-8"))
            nodes = tuple(TrialNode(**node) for node in facts.pop("nodes"))
            return TrialCluster(nodes=nodes, **facts)
        except (OSError, ValueError, LookupError, TypeError):
            return None

    @staticmethod
    def forget() -> None:
        """Remove the state and the token."""
        for name in ("state.json", "token"):
            (_place() / name).unlink(missing_ok=True)

    @property
    def runs(self) -> bool:
        """Whether its head is there."""
        return bool(self.nodes) and find(self.nodes[0].pid, self.folder) is not None


def _home() -> str:
    """Return the user's home; in a container whose user has none, a folder of that user for temporary files."""
    home = os.path.expanduser("~")
    return home if os.path.isabs(home) else f"{tempfile.gettempdir()}/wmdd-{os.getuid()}"


def _place() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or f"{_home()}/.local/state"
    return Path(os.environ.get("WMDD_STATE") or f"{home}/wmdd/cluster").expanduser().absolute()


def state_folder() -> Path:
    """Give the folder of the state, made for its owner alone: ``WMDD_STATE``, or below the XDG state folder.

    Raises:
        ConfigError: if it cannot be made, or another user could exchange the token in it.
    """
    folder = _place()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = folder.stat()
    except OSError as exc:
        raise ConfigError(f"WMDD_STATE {folder}: {exc.strerror}; name a folder of your own") from exc
    if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise ConfigError(f"WMDD_STATE {folder}: others may write there; name a folder that is yours alone")
    return folder


@contextlib.contextmanager
def locked(command: str) -> Iterator[None]:
    """Keep other `wmdd cluster` commands from starting or ending a cluster meanwhile.

    Raises:
        ConfigError: if one is at work.
    """
    with open(state_folder() / "lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigError(
                f"{command}: another wmdd cluster command is starting or ending the cluster; wait until it is done"
            ) from exc
        yield


def token_file() -> Path:
    """Give the path of the token that every client of the cluster needs."""
    return _place() / "token"


def make_token() -> None:
    """Write a new token that only its owner can read."""
    path = state_folder() / "token"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
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
    wanted = address and address.rstrip("/").replace("localhost", "127.0.0.1")
    if wanted is not None and wanted not in (found.address, found.dashboard):
        return None
    os.environ.update(settings())
    os.environ.pop("RAY_AUTH_TOKEN", None)
    return found
