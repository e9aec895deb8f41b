"""The state of this user's trial cluster: addresses, processes and the file of its token."""

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
    """A node: its id in Ray, and the process whose end ends it."""

    node_id: str
    pid: int


@dataclass(frozen=True)
class TrialCluster:
    """A cluster that `wmdd cluster up` has started or is starting.

    Args:
        folder: of Ray's logs and sockets; it marks the cluster's processes.
        supervisor: id of the process that runs the cluster.
        address: for runs, ``127.0.0.1:PORT``; empty until the cluster is up.
        dashboard: for jobs and browsers, ``http://127.0.0.1:PORT``.
        nodes: the head first.
    """

    folder: str
    supervisor: int
    address: str = ""
    dashboard: str = ""
    nodes: tuple[TrialNode, ...] = ()

    def save(self) -> None:
        """Write the state atomically."""
        part = state_folder() / "state.json.part"
        part.write_text(json.dumps(asdict(self)), encoding="utf-8")
        part.replace(state_folder() / "state.json")

    @staticmethod
    def load() -> TrialCluster | None:
        """Read the state; None if no cluster was started."""
        try:
            values = json.loads((_path() / "state.json").read_text(encoding="utf-8"))
            nodes = tuple(TrialNode(**node) for node in values.pop("nodes"))
            return TrialCluster(nodes=nodes, **values)
        except (OSError, ValueError, LookupError, TypeError):
            return None

    @staticmethod
    def forget() -> None:
        """Remove the state and the token."""
        for name in ("state.json", "token"):
            (_path() / name).unlink(missing_ok=True)

    @property
    def runs(self) -> bool:
        """Whether its head runs."""
        return bool(self.nodes) and find(self.nodes[0].pid, self.folder) is not None


def _home() -> str:
    """Return the user's home; a temporary folder of that user in a container whose user has no home."""
    home = os.path.expanduser("~")
    return home if os.path.isabs(home) else f"{tempfile.gettempdir()}/wmdd-{os.getuid()}"


def _path() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or f"{_home()}/.local/state"
    return Path(os.environ.get("WMDD_STATE") or f"{home}/wmdd/cluster").expanduser().absolute()


def state_folder() -> Path:
    """Return the private folder of the state, ``WMDD_STATE`` or below the XDG state folder; create it if needed.

    Raises:
        ConfigError: if it cannot be created, or another user could replace the token in it.
    """
    folder = _path()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as exc:
        raise ConfigError(f"WMDD_STATE {folder}: {exc.strerror}; name a folder of your own") from exc
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ConfigError(f"WMDD_STATE {folder}: others may write there; name a folder that is yours alone")
    return folder


@contextlib.contextmanager
def locked(command: str) -> Iterator[None]:
    """Keep other `wmdd cluster` commands from starting or ending a cluster meanwhile.

    Raises:
        ConfigError: if another one is running.
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
    """Return the path of the token that every client of the cluster needs."""
    return _path() / "token"


def make_token() -> None:
    """Write a new token that only its owner can read."""
    path = state_folder() / "token"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(secrets.token_hex(32))


def settings() -> dict[str, str]:
    """Return the environment that a process needs to connect to the trial cluster."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file()),
        # Every server of every process binds to loopback only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def adopt(address: str | None) -> TrialCluster | None:
    """Set the environment for the trial cluster if an address is one of its addresses (None: if one runs); return it.

    Must precede the import of Ray, which reads the environment once.
    """
    trial = TrialCluster.load()
    if trial is None or not trial.runs:
        return None
    wanted = address and address.rstrip("/").replace("localhost", "127.0.0.1")
    if wanted is not None and wanted not in (trial.address, trial.dashboard):
        return None
    os.environ.update(settings())
    os.environ.pop("RAY_AUTH_TOKEN", None)
    return trial
