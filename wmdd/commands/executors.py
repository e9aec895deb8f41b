"""What runs the tasks of a command: Ray's workers, this process, or an executor that the caller brings."""

from __future__ import annotations

import contextlib

from wmdd.config.distill import DistillConfig
from wmdd.engine.run import Executor, LocalExecutor
from wmdd.errors import ConfigError


def check_executor(executor: str | Executor) -> None:
    """Raise a `ConfigError` for what is neither an executor nor the name of one."""
    if executor not in ("ray", "local") if isinstance(executor, str) else not hasattr(executor, "run"):
        raise ConfigError(f"--executor {executor}: choose ray or local")


def open_executor(executor: str | Executor, config: DistillConfig) -> contextlib.AbstractContextManager[Executor]:
    """Return an executor that is closed at the end, unless the caller brought it."""
    if not isinstance(executor, str):
        return contextlib.nullcontext(executor)
    if executor == "local":
        return contextlib.nullcontext(LocalExecutor(config.runtime))
    from ray_jobs.executor import RayExecutor

    return contextlib.closing(RayExecutor(config))
