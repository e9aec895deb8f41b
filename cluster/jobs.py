"""Jobs on a Ray cluster: submit a wmdd command, follow its log, and return its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import tenacity

from cluster.state import adopt
from wmdd.errors import ConfigError, WmddError
from wmdd.text import one_line

COMMAND = "python -m wmdd"  # Ray's job supervisor sets RAY_ADDRESS, so that it runs on the job's cluster
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED = 143
RECONNECTS = 6  # in a row, each after a longer pause: about two minutes
POLL_S = 0.3
# They log each file that stays behind, and each sets its own level.
LOGGERS = ("_private.runtime_env.packaging", "_private.runtime_env.working_dir", "dashboard.modules.dashboard_sdk")
LOGGERS += ("dashboard.modules.job.sdk",)
RETRY_UNTIL_UP = tenacity.Retrying(
    retry=tenacity.retry_if_exception_message(match=".*No available agent"),
    wait=tenacity.wait_fixed(1),
    stop=tenacity.stop_after_delay(30),
    reraise=True,
)


class Jobs:
    """The job server of a cluster.

    Args:
        address: ``http://HOST:8265``; None takes ``RAY_API_SERVER_ADDRESS``, or the trial cluster of this machine.

    Raises:
        ConfigError: if there is no address, nobody answers there, or the token is refused.
    """

    def __init__(self, address: str | None) -> None:
        named = os.environ.get("RAY_API_SERVER_ADDRESS")
        option = "--address" if address or not named else "RAY_API_SERVER_ADDRESS"
        given = address or named
        trial = adopt(given)
        self.address = (trial.dashboard if trial else given or "").rstrip("/")
        if not self.address:
            raise ConfigError(
                "--address: no cluster runs here; give --address http://HOST:8265, or start one: wmdd cluster up"
            )
        self._where = f"{option} {self.address}"
        spare_loopback(self.address)
        proxy = proxy_for(self.address)
        _check_http(self._where, self.address, proxy)
        self._client = self._make_client(proxy)

    def _make_client(self, proxy: str) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # which the SDK prefers to the address that it is given
            os.environ.pop(name, None)
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as exc:
            raise WmddError("Ray is not installed; pip install 'wmdd[ray]'") from exc
        with self._explained(proxy=proxy):
            client = JobSubmissionClient(self.address)
        for name in LOGGERS:
            logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
        return client

    def submit(self, words: Sequence[str], environment: dict[str, Any], submission_id: str | None) -> str:
        """Submit a wmdd command line, and return the job's id.

        Args:
            environment: Ray's runtime environment, see `cluster.runtime_env`.
        """
        entrypoint = f"{COMMAND} {shlex.join(words)}"
        with self._explained(submission_id or ""):
            options = {"runtime_env": environment, "submission_id": submission_id}
            return str(RETRY_UNTIL_UP(self._client.submit_job, entrypoint=entrypoint, **options))

    def follow(self, job: str, write: Callable[[str], None]) -> None:
        """Write a job's log as it grows, until the job ends; reconnect if the connection is lost.

        A server that answers but cannot stream (a proxy without web sockets) is polled.
        """
        written = failures = 0
        while True:
            try:
                with self._explained(job):
                    while str(self._client.get_job_status(job)) == "PENDING":
                        time.sleep(POLL_S)
                    written, whole = asyncio.run(self._tail(job, write, written))
                    ended = str(self._client.get_job_status(job)) in ENDED
                    if not whole:
                        text = self._client.get_job_logs(job)
                        write(text[written:])
                        written = max(written, len(text))
                    if ended:
                        return
                failures = 0
            except ConfigError:  # an unknown job, or a refused token
                raise
            except WmddError:
                failures += 1
                if failures > RECONNECTS:
                    raise
            time.sleep(min(30.0, 2.0**failures))

    async def _tail(self, job: str, write: Callable[[str], None], written: int) -> tuple[int, bool]:
        """Write the stream; return its length, and whether it reached its end."""
        from aiohttp import ClientError

        seen = 0
        try:
            async for text in self._client.tail_job_logs(job):
                write(text[max(0, written - seen) :])
                seen += len(text)
        except (RuntimeError, OSError, ClientError):  # the connection is lost: the caller asks for the status
            return max(seen, written), False
        return max(seen, written), True

    def log(self, job: str) -> str:
        """Return a job's log so far."""
        with self._explained(job):
            return str(self._client.get_job_logs(job))

    def exit_status(self, job: str) -> tuple[int, str]:
        """Wait for the end of a job; return its command's exit status (143 if it was stopped), and Ray's message if the
        command never ran.
        """
        with self._explained(job):
            while str((info := self._client.get_job_info(job)).status) not in ENDED:
                time.sleep(POLL_S)
        if str(info.status) == "STOPPED":
            return STOPPED, "it was stopped"
        if info.driver_exit_code is not None:
            return int(info.driver_exit_code), ""
        return int(str(info.status) == "FAILED"), " ".join((info.message or "").split())

    def stop(self, job: str) -> str:
        """End a running job, whose finished units are kept; return its status then."""
        with self._explained(job):
            before = str(self._client.get_job_status(job))
            if before == "PENDING":
                raise WmddError(
                    f"{job} is PENDING, and Ray cannot stop such a job; try again when wmdd jobs shows it run"
                )
            if before in ENDED:
                return f"{before} already"
            self._client.stop_job(job)
            while (status := str(self._client.get_job_status(job))) not in ENDED:
                time.sleep(POLL_S)
        return status

    def rows(self) -> Iterator[tuple[str, str, float | None, float | None, str]]:
        """Return submitted jobs, newest first: id, status, begin and end in seconds, and command."""
        with self._explained():
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        for job in sorted(jobs, key=lambda job: -(job.start_time or 0)):
            begun, ended = (moment / 1000 if moment else None for moment in (job.start_time, job.end_time))
            command = job.entrypoint.replace(f"{COMMAND} ", "wmdd ")
            yield job.submission_id, str(job.status), begun, ended, command

    @contextlib.contextmanager
    def _explained(self, job: str = "", proxy: str = "") -> Iterator[None]:
        from ray.exceptions import RayError

        try:
            yield
        except (RuntimeError, ValueError, OSError, RayError) as exc:
            raise _explain(self._where, job, one_line(exc), proxy) from exc


def _explain(where: str, job: str, text: str, proxy: str = "") -> WmddError:
    if proxy and "RAY_AUTH" not in text:
        host = urlsplit(where.split()[-1]).hostname
        return ConfigError(
            f"{where}: no job server answers through the proxy of {proxy} ({text[:200]}); set no_proxy={host} if it is "
            "reached without one"
        )
    if any(word in text for word in ("Forbidden", "nauthenticated", "nauthorized", "uthentication", "AUTH_TOKEN")):
        return ConfigError(
            f"{where}: the cluster refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or "
            "RAY_AUTH_TOKEN) to the cluster's own"
        )
    if "Version check" in text:
        return ConfigError(f"{where}: is no job server of Ray; give the dashboard's address, such as http://HOST:8265")
    if job and ("status code 404" in text or "does not exist" in text):
        return ConfigError(f"{job}: no such job at {where.split()[-1]}; wmdd jobs lists them")
    if job and "already exists" in text:
        return ConfigError(f"--submission-id {job}: there is such a job already; wmdd logs {job}")
    if "exceeds the maximum size" in text or "status code 413" in text:
        return ConfigError(
            "--working-dir: its files are more than a job server takes (100 MiB); name a folder with code alone, or "
            "list what may stay here in its .gitignore"
        )
    return WmddError(f"{where}: the job server fails: {text[:300]}")


def _check_http(where: str, address: str, proxy: str = "") -> None:
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise ConfigError(f"{where}: jobs go to the dashboard's address, such as http://HOST:8265")
    if proxy:  # which may reach what this machine does not
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except (OSError, UnicodeError) as exc:
        raise ConfigError(f"{where}: nobody answers ({exc}); is the cluster up?") from exc


def spare_loopback(url: str) -> None:
    """Exclude a server on this machine from proxies, which would look for it on their own machine."""
    host = urlsplit(url).hostname or ""
    if not _is_loopback(host):
        return
    names = ("no_proxy", "NO_PROXY")  # tools differ in which one they read, and one hides the other
    before = [os.environ.get(name, "").strip() for name in names]
    for name, value, other in zip(names, before, reversed(before), strict=True):
        if (value or other) != "*":
            os.environ[name] = ",".join(filter(None, [value or other, host]))


def _is_loopback(host: str) -> bool:
    """Whether a name or address means this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_for(url: str) -> str:
    """Return the variable that sends requests for a URL through a proxy; "" if no proxy is used."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url, no_proxy=None))
    if not proxy:
        return ""
    scheme = urlsplit(url).scheme
    names = [form for name in (f"{scheme}_proxy", "all_proxy") for form in (name, name.upper())]
    return next((name for name in names if os.environ.get(name) == proxy), f"{scheme}_proxy")
