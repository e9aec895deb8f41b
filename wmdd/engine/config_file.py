"""YAML files of configurations, at any URL: what ``--config`` names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wmdd.config.distill import DistillConfig, from_yaml, section_names
from wmdd.config.values import decode, from_text, load_yaml
from wmdd.errors import ConfigError
from wmdd.process.home import expand_home


def read_config(path: str, base: DistillConfig | None = None) -> DistillConfig:
    """Read a YAML file over `base`.

    Raises:
        ConfigError: if the file is missing, no YAML, or holds unknown keys; names the file.
    """
    text = _text_of(path)
    try:
        return from_yaml(text, base)
    except ConfigError as exc:
        raise ConfigError(f"--config {path}: {exc}") from exc


def _text_of(path: str) -> str:
    from wmdd.storage.filesystem import explain, open_fs, read  # fsspec is slow to import, and few commands need it

    path = expand_home(path)
    try:
        return decode(read(*open_fs(path)) if "://" in path else Path(path).read_bytes())
    except (OSError, EOFError) as exc:
        reason = explain(exc) if "://" in path else getattr(exc, "strerror", exc)
        raise ConfigError(f"--config {path}: {reason}") from exc
    except ConfigError as exc:
        raise ConfigError(f"--config {path}: {exc}") from exc


@dataclass(frozen=True)
class NamedIn:
    """What a YAML file names, None where it does not; `whole` if it has every section, as a run's own file has."""

    recipe: str | None = None
    method: str | None = None
    protocol: str | None = None
    whole: bool = False


def names_in(path: str) -> NamedIn:
    """Return what a YAML file names before its options are read over that; a damaged one names nothing.

    Raises:
        ConfigError: if the file cannot be read.
    """
    text = _text_of(path)
    try:
        values = load_yaml(text)
    except ConfigError:
        return NamedIn()
    evaluate = values.get("evaluate")
    protocol = evaluate.get("protocol") if isinstance(evaluate, dict) else None
    named = (values.get("recipe"), values.get("method"), protocol)
    found = [from_text(str | None, name) if isinstance(name, str) and name != "null" else None for name in named]
    return NamedIn(found[0], found[1], found[2], all(section in values for section in section_names()))
