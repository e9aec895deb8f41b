"""The one place that decides how a process reaches Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from typing import Any

from wmdd.errors import ConfigError, WmddError

NO_RAY = "--executor ray: Ray is not installed; pip install 'wmdd[ray]', or use --executor local"


def connect(address: str | None) -> bool:
    """Join the Ray at `address`, or start one of this process alone; tell whether one was started.

    Raises:
        ConfigError: for an address of the wrong kind, where nobody answers, or that refuses the token.
        WmddError: if Ray is not installed.
    """
    if address:
        check_address(address)
        with contextlib.suppress(ImportError):  # psutil comes with Ray's dashboard, which a bare Ray lacks
            from cluster.state import adopt

            adopt(address if address != "auto" else None)
    ray = import_ray(alone=not address)
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        ray.init(address="local", include_dashboard=False, **options)
        return True
    if address == "auto":
        from cluster.state import adopt

        trial = adopt(None)
        address = trial.address if trial else address
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, OSError, ValueError) as exc:
        text = " ".join(str(exc).split())[:200]
        raise ConfigError(
            f"--address {address}: cannot join ({text}); is it a Ray cluster with Ray {ray.__version__}, and are "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH set to its token, if it has one?"
        ) from exc
    return False


def check_address(address: str) -> None:
    """Refuse an address that drivers cannot use, or where nobody answers, in seconds.

    Raises:
        ConfigError: one line with the remedy.
    """
    if address.startswith(("ray://", "http://", "https://")):
        raise ConfigError(
            f"--address {address}: a run is not driven from afar, since it would end with the connection; submit a "
            "job instead: wmdd submit --address http://HOST:8265 -- distill RECIPE --run URL"
        )
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--address {address}: give auto, or HOST:PORT of the cluster's head, such as 10.0.0.5:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as exc:
        raise ConfigError(f"--address {address}: nobody answers ({exc}); is the cluster up?") from exc


def import_ray(*, alone: bool) -> Any:
    """Import Ray with settings that it reads only once.

    Args:
        alone: for a Ray of this process, which listens on loopback, with a token that nobody else has.

    Raises:
        WmddError: if Ray is not installed; names the extra and the way without it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if alone:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as exc:
        raise WmddError(NO_RAY) from exc
    return ray
