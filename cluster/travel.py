"""What travels with a job: the working directory, packages, and plain settings."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from wmdd.errors import ConfigError

# Neither code nor small: what stays here, next to what .gitignore names. The last ones only at the top.
LEFT_OUT = [".git", ".venv", "venv", "runs", "__pycache__", ".*_cache", ".cache", ".hypothesis", "*.egg-info"]
LEFT_OUT += ["/data", "/store", "/build", "/dist"]
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


def runtime_environment(folder: str, requirements: str | None, variables: Sequence[str]) -> dict[str, Any]:
    """Build Ray's runtime environment of a job.

    Raises:
        ConfigError: for a missing folder or file, and for variables that look like credentials: they would be
            readable on the dashboard, and belong to the cluster's own environment.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"--working-dir {folder}: is no folder; give the one whose files the job needs")
    environment: dict[str, Any] = {"working_dir": folder, "excludes": LEFT_OUT, "env_vars": _settings(variables)}
    if requirements is None:
        return environment
    if not os.path.isfile(requirements):
        raise ConfigError(f"--requirements {requirements}: is no file; give one as pip reads it")
    return environment | {"pip": requirements}


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
