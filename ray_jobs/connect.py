"""The one place that decides how a process reaches Ray."""

from __future__ import annotations

import logging
import os
import secrets
from typing import Any

from wmdd.errors import WmddError


def connect(address: str | None) -> bool:
    """Join the Ray at `address`, or start one of this process alone; tell whether one was started."""
    ray = import_ray()
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        ray.init(address=address, **options)
    else:
        ray.init(address="local", include_dashboard=False, **options)
    return not address


def import_ray() -> Any:
    """Import Ray with settings that it reads only once.

    Raises:
        WmddError: if Ray is not installed; names the extra and the way without it.
    """
    # Servers listen on loopback only; a token of this process alone keeps other users of the machine out.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as exc:
        raise WmddError(
            "--executor ray: Ray is not installed; pip install 'wmdd[ray]', or use --executor local"
        ) from exc
    return ray
