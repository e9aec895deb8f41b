"""Jobs on a Ray cluster: submit a wmdd command, follow its log, and give its own exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from cluster.state import adopt
from wmdd.errors import ConfigError, WmddError

DRIVER = "python -m ray_jobs.driver"
# Neither code nor small: what never travels with the working directory (next to what .gitignore names).
LEFT_OUT = [".git", ".venv", "venv", "runs", "**/__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"]
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Jobs:
    """The job server of a cluster.

    Args:
        address: ``http://HOST:8265``; None takes ``RAY_API_SERVER_ADDRESS``, or the trial cluster of this machine.

    Raises:
        ConfigError: if there is no address, nobody listens there, or the token is refused.
    """

    def __init__(self, address: str | None) -> None:
        given = address or os.environ.get("RAY_API_SERVER_ADDRESS")
        trial = adopt(given)
        self.address = (given or (trial.dashboard if trial else "")).rstrip("/")
        if not self.address:
            raise ConfigError("--address: no cluster is known; give --address http://HOST:8265, or wmdd cluster up")
        _check_http(self.address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as exc:
            raise WmddError("Ray is not installed; pip install 'wmdd[ray]'") from exc
        with self._explained():
            self._client = JobSubmissionClient(self.address)

    def submit(self, words: Sequence[str], environment: dict[str, Any], job_id: str | None) -> str:
        """Submit a wmdd command line; give the job's id.

        Args:
            environment: Ray's runtime environment, see `runtime_environment`.
        """
        with self._explained(job_id or ""):
            found: str = self._client.submit_job(
                entrypoint=f"{DRIVER} {shlex.join(words)}", runtime_env=environment, submission_id=job_id
            )
        return found

    def follow(self, job_id: str, write: Callable[[str], None]) -> None:
        """Write a job's log as it grows, until the job ends."""

        async def tail() -> None:
            async for lines in self._client.tail_job_logs(job_id):
                write(lines)

        with self._explained(job_id):
            while str(self._client.get_job_status(job_id)) == "PENDING":
                time.sleep(0.3)
            asyncio.run(tail())

    def log(self, job_id: str) -> str:
        """Give a job's log so far."""
        with self._explained(job_id):
            text: str = self._client.get_job_logs(job_id)
        return text

    def exit_status(self, job_id: str) -> int:
        """Wait for the end of a job; give the driver's own exit status (143 for a stopped one)."""
        with self._explained(job_id):
            while str((info := self._client.get_job_info(job_id)).status) not in ENDED:
                time.sleep(0.3)
        if str(info.status) == "STOPPED":
            return 143
        code = info.driver_exit_code
        return int(code) if code is not None else int(str(info.status) == "FAILED")

    def reason(self, job_id: str) -> str:
        """Say what Ray says of a job's end."""
        with self._explained(job_id):
            return " ".join(str(self._client.get_job_info(job_id).message or "").split())

    def stop(self, job_id: str) -> str:
        """End a running job, whose finished work is kept; give its status then."""
        with self._explained(job_id):
            before = str(self._client.get_job_status(job_id))
            if before == "PENDING":
                raise WmddError(f"{job_id} is still waiting for room, and Ray cannot stop such a job; try again later")
            if before in ENDED:
                return before
            self._client.stop_job(job_id)
            while (status := str(self._client.get_job_status(job_id))) not in ENDED:
                time.sleep(0.3)
        return status

    def rows(self) -> Iterator[tuple[str, str, float | None, float | None, str]]:
        """List submitted jobs, newest first: id, status, begin and end in seconds, and command."""
        with self._explained():
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        for job in sorted(jobs, key=lambda job: -(job.start_time or 0)):
            begun, ended = (moment / 1000 if moment else None for moment in (job.start_time, job.end_time))
            command = job.entrypoint.replace(f"{DRIVER} ", "wmdd ")
            yield job.submission_id, str(job.status), begun, ended, command

    @contextlib.contextmanager
    def _explained(self, job_id: str = "") -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ConnectionError, OSError) as exc:
            text = " ".join(str(exc).split())
            if any(word in text for word in ("401", "403", "nauthenticated", "nauthorized", "uthentication")):
                raise ConfigError(
                    f"--address {self.address}: the cluster refuses the token; set RAY_AUTH_MODE=token and "
                    "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's own"
                ) from exc
            if job_id and ("404" in text or "does not exist" in text):
                raise ConfigError(f"{job_id}: no such job at {self.address}; wmdd jobs lists them") from exc
            if job_id and "already exists" in text:
                raise ConfigError(f"--job-id {job_id}: there is such a job already; wmdd logs {job_id}") from exc
            raise WmddError(f"the job server at {self.address} fails: {text[:300]}") from exc


def runtime_environment(folder: str, requirements: str | None, variables: Sequence[str]) -> dict[str, Any]:
    """Say what travels with a job: the working directory, packages, and plain settings.

    Raises:
        ConfigError: for a missing folder or file, and for variables that look like credentials: they would be
            readable on the dashboard, and belong to the cluster's own environment.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"--working-dir {folder}: is no folder")
    if requirements and not os.path.isfile(requirements):
        raise ConfigError(f"--requirements {requirements}: is no file")
    pairs = {}
    for variable in variables:
        name, is_pair, value = variable.partition("=")
        if not is_pair or not name:
            raise ConfigError(f"--env {variable}: give NAME=VALUE")
        if SECRET.search(name):
            raise ConfigError(
                f"--env {name}=...: looks like a credential, which the dashboard would show; set it in the "
                "environment of the cluster's nodes"
            )
        pairs[name] = value
    environment: dict[str, Any] = {"working_dir": folder, "excludes": LEFT_OUT, "env_vars": pairs}
    return environment | ({"pip": requirements} if requirements else {})


def _check_http(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--address {address}: jobs go to the dashboard's address, such as http://HOST:8265")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except OSError as exc:
        raise ConfigError(f"--address {address}: nobody answers ({exc.strerror or exc}); is the cluster up?") from exc
