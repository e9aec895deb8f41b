"""The runtime environment of a job: working directory, packages and plain variables."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wmdd.cpus import ONE_ARENA
from wmdd.errors import ConfigError

# Not sent with a job, like the files that .gitignore names. The last ones only at the top.
EXCLUDED = [".git", ".venv", "venv", "runs", "__pycache__", ".*_cache", ".cache", ".hypothesis", "*.egg-info"]
EXCLUDED += ["/data", "/store", "/build", "/dist"]
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


def runtime_environment(folder: str, requirements: str | None, variables: Sequence[str]) -> dict[str, Any]:
    """Return Ray's runtime environment of a job.

    Raises:
        ConfigError: for a missing folder or file, and for variables that look like credentials: the dashboard would
            show them, and they belong to the environment of the cluster's nodes.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"--working-dir {folder}: is no folder; give the one whose files the job needs")
    settings = dict([ONE_ARENA]) | _settings(variables)
    environment: dict[str, Any] = {"working_dir": folder, "excludes": EXCLUDED, "env_vars": settings}
    if requirements is None:
        return environment
    if not os.path.isfile(requirements):
        raise ConfigError(f"--requirements {requirements}: is no file; give one as pip reads it")
    return environment | {"pip": requirements}


def check_travels(file: str) -> None:
    """Refuse a configuration file that is not sent when the current folder is the working directory of a job.

    Raises:
        ConfigError: if it lies elsewhere, or is excluded.
    """
    if "://" in file or os.path.isabs(file):  # then all nodes share it
        return
    path = Path(os.path.normpath(file))
    if path.parts[0] == "..":
        raise ConfigError(f"--config {file}: does not travel with the job; put it into --working-dir")
    if pattern := _excluded_by(path):
        raise ConfigError(
            f"--config {file}: does not travel with the job, because {pattern} is left out; copy it to another place "
            "in --working-dir, or give a path or URL that all nodes share"
        )


def _excluded_by(path: Path) -> str:
    """Return the part of a relative path that Ray excludes, by its list or the ignore files of folders; "" if none."""
    try:
        from ray._private.runtime_env.packaging import _get_excludes, get_excludes_from_ignore_files
    except ImportError:  # another version of Ray: the job would fail with the reason
        return ""
    tests = [_get_excludes(Path(), EXCLUDED)]
    with_git = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    for part in (*reversed(path.parents), path):
        if part != Path() and any(test(part.absolute()) for test in tests):
            return str(part)
        if part != path:
            tests += get_excludes_from_ignore_files(part, with_git, logging.getLogger(__name__))
    return ""


def _settings(variables: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for variable in variables:
        name, is_pair, value = variable.partition("=")
        if not is_pair or not name.isidentifier():
            raise ConfigError(f"--env {name}: give NAME=VALUE")
        if SECRET.search(name):
            raise ConfigError(
                f"--env {name}=...: looks like a credential, which the dashboard would show to everyone; set it in the "
                "environment of the cluster's nodes"
            )
        pairs[name] = value
    return pairs
