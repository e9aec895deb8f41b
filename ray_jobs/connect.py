"""How a process connects to Ray: to a cluster, or to a temporary Ray that it starts."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmdd.cpus import usable_cpus
from wmdd.errors import ConfigError, WmddError
from wmdd.process import interruptions
from wmdd.process.temporary import ray_folder, shorten_tmpdir
from wmdd.text import one_line, printable

NO_RAY = "--executor ray: Ray is not installed; pip install 'wmdd[ray]', or use --executor local"
# Artifacts go through the run's store, not through Ray's objects; each process maps all memory for these at once, which
# counts towards a limit of address space (ulimit -v, as batch systems set it).
OBJECT_STORE_BYTES = 2**28
MIN_ADDRESS_SPACE = 7 * 2**30
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": all servers bind to loopback, and heads are sought there


def connect(address: str | None) -> bool:
    """Join the Ray at `address`, or start a temporary one; return whether one was started.

    Args:
        address: ``HOST:PORT`` of a head, or ``auto``: the cluster that ``RAY_ADDRESS`` names, the one of ``wmdd
            cluster up``, or the one that this machine is a node of. None starts a Ray that ends with this process.

    Raises:
        ConfigError: for an address of the wrong kind, where nobody answers, or that refuses the token.
        WmddError: if Ray is not installed, or does not start.
    """
    resolved = find_address(address)
    ray = import_ray(alone=not resolved)
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # A Ray that has only partly started cannot be stopped in order.
    with _kept_sigterm(), interruptions.at_once():
        if not resolved:
            os.environ["RAY_TMPDIR"] = ray_folder()
            shorten_tmpdir()  # workers inherit it
            # Ray counts all CPUs of the machine, even if this process may use only some of them.
            _start(ray, {"num_cpus": usable_cpus(), "object_store_memory": OBJECT_STORE_BYTES, **options})
            return True
        try:
            if resolved != "auto":  # a head refuses a wrong token at once, while `ray.init` tries for half a minute
                ray._raylet.GcsClient(address=resolved)
            ray.init(address=resolved, **options)
        except (ConnectionError, RuntimeError, OSError, ValueError, ray.exceptions.RayError) as exc:
            raise ConfigError(_refused(address or resolved, exc, ray.__version__)) from exc
    return False


def _start(ray: Any, options: dict[str, Any]) -> None:
    _check_loopback()
    _check_address_space()
    try:
        ray.init(address="local", include_dashboard=False, **options)
    except Exception as exc:  # Ray has no class for this
        raise WmddError(
            f"Ray does not start on this machine ({one_line(exc, 300)}); if it is only busy, try again; "
            "--executor local needs no Ray"
        ) from exc


def _check_loopback() -> None:
    """Refuse a machine whose loopback is down or closed: Ray would wait for its head for many minutes."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            socket.create_connection(listener.getsockname(), timeout=5).close()
    except OSError as exc:
        raise WmddError(
            f"Ray does not start on this machine: 127.0.0.1, by which its processes talk, is not reached ({exc}); "
            "bring loopback up, or open it; --executor local needs no Ray"
        ) from exc


def _check_address_space() -> None:
    """Refuse a limit under which Ray ends the process with a stack trace: seen at 5 GB, and fine at 8 GB."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
        raise WmddError(
            f"Ray does not start under ulimit -v {limit // 1024} (KiB): its processes map more than they use; allow "
            f"{MIN_ADDRESS_SPACE // 1024} or more, or use --executor local"
        )


def find_address(address: str | None) -> str | None:
    """Return the address to join (``auto``: Ray looks for one) and set its environment; None for a temporary Ray.

    Raises:
        ConfigError: within seconds, for an address that drivers cannot use, or where nobody answers.
    """
    _check_names()
    named = os.environ.get("RAY_ADDRESS")
    option = "RAY_ADDRESS" if address is not None and address == named else "--address"
    if address == "auto" and named not in (None, "", "auto", "local"):
        option, address = "RAY_ADDRESS", named
    if not address or address == "local":
        return None
    if address.startswith(("ray://", "http://", "https://")):
        raise ConfigError(
            f"{option} {address}: a run is not driven from afar, since it would end with the connection; submit a "
            "job instead: wmdd submit --address http://HOST:8265 -- distill RECIPE --run URL"
        )
    trial = _adopt(address)
    _check_token()
    if address == "auto":
        return trial or address
    _check_listener(option, address)
    return address


def _adopt(address: str) -> str | None:
    try:
        from cluster.state import adopt
    except ImportError:  # psutil comes with Ray's dashboard, which a bare Ray lacks
        return None
    trial = adopt(None if address == "auto" else address)
    return trial.address if trial else None


def _check_listener(option: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address or not 0 < int(port) < 65536:
        raise ConfigError(f"{option} {address}: give auto, or HOST:PORT of the cluster's head, such as 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, UnicodeError) as exc:
        raise ConfigError(f"{option} {address}: nobody answers ({exc}); is the cluster up?") from exc
    if _is_loopback_only(host.strip("[]"), int(port)):
        os.environ.setdefault(LOOPBACK, "0")  # else Ray looks for the head at this machine's other address, for ever


def _is_loopback_only(host: str, port: int) -> bool:
    """Whether a head on this machine is not reachable from outside, like those that `wmdd` starts."""
    try:
        if not ipaddress.ip_address(socket.gethostbyname(host)).is_loopback:
            return False
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only selects the route
            outside = probe.getsockname()[0]
        socket.create_connection((outside, port), timeout=5).close()
    except OSError:
        return True
    return False


def _check_names() -> None:
    """Refuse a command line or folder that is not UTF-8: Ray keeps both as text, and would end the process."""
    for what in (*sys.argv, os.getcwd()):
        if any("\ud800" <= character <= "\udfff" for character in what):
            raise ConfigError(
                f"--executor ray: {printable(what)} is not UTF-8, which Ray cannot pass on; rename it, or use "
                "--executor local"
            )


def _check_token() -> None:
    """Refuse a token file that cannot be read: Ray would end the process."""
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigError(f"RAY_AUTH_TOKEN_PATH {path}: {exc.strerror}; name the file of the cluster's token") from exc
    if not token:
        raise ConfigError(f"RAY_AUTH_TOKEN_PATH {path}: is empty; name the file of the cluster's token")


def _refused(address: str, cause: Exception, version: str) -> str:
    text = one_line(cause)
    if "any running Ray" in text:
        return "--address auto: no Ray runs on this machine; give HOST:6379 of a cluster's head, or wmdd cluster up"
    if "InvalidAuthToken" in text:
        return (
            f"--address {address}: the cluster refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or "
            "RAY_AUTH_TOKEN) to the cluster's own"
        )
    return (
        f"--address {address}: cannot join ({text[:300]}); give the port of a head (6379 unless it was chosen) that "
        f"runs Ray {version}, and its token in RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token, if it asks for one"
    )


@contextlib.contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Keep the process's handler of SIGTERM, which Ray replaces by one that aborts with a stack trace."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def import_ray(*, alone: bool) -> Any:
    """Import Ray with settings that it reads only once.

    Args:
        alone: for a temporary Ray, which listens on loopback, with a token that nobody else has.

    Raises:
        WmddError: if Ray is not installed; names the extra and the way without it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # The scheduler reports workers that died.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed while executing a task")
    if alone:
        os.environ.setdefault(LOOPBACK, "0")
        # By default its workers have a niceness of 15, with which they hardly get a CPU while another program runs.
        os.environ.setdefault("RAY_worker_niceness", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as exc:
        raise WmddError(NO_RAY) from exc
    return ray
