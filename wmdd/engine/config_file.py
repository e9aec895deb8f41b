"""Configuration files at any URL: what ``--config`` names."""

from __future__ import annotations

from pathlib import Path

from wmdd.config.distill import DistillConfig, changes_in
from wmdd.config.resolve import ConfigFile
from wmdd.config.values import decode
from wmdd.errors import ConfigError
from wmdd.process.home import expand_home


def read_config(path: str) -> DistillConfig:
    """Return what `read_file` reads, over the defaults; raise ConfigError for unknown options too."""
    return read_file(path).over(DistillConfig())


def read_file(path: str) -> ConfigFile:
    """Read a YAML file; raise ConfigError, which names it, if it is missing or no YAML."""
    from wmdd.storage.filesystem import explain, open_fs, read  # fsspec is slow to import, and few commands need it

    full = expand_home(path)
    try:
        data = read(*open_fs(full)) if "://" in full else Path(full).read_bytes()
        return ConfigFile(path, changes_in(decode(data)))
    except (OSError, EOFError) as exc:
        reason = explain(exc) if "://" in full else getattr(exc, "strerror", exc)
        raise ConfigError(f"--config {path}: {reason}") from exc
    except ConfigError as exc:
        raise ConfigError(f"--config {path}: {exc}") from exc
