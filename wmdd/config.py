"""The configuration of a run, from Python, YAML or options: frozen, checked whole, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from wmdd.errors import ConfigError
from wmdd.sections import (
    BarycenterConfig,
    DataConfig,
    EvaluateConfig,
    Method,
    PretrainConfig,
    RayConfig,
    RecoverConfig,
    RelabelConfig,
    RuntimeConfig,
    Section,
    StatisticsConfig,
)

STAGE_NAMES = ("pretrain", "statistics", "barycenter", "recover", "select", "relabel", "evaluate")


class DistillConfig(Section):
    """Everything that decides a run."""

    recipe: str = Field("custom", description="name that the run folder and the report carry")
    method: Method = Field("wmdd", description="what makes the images; see `wmdd.methods`")
    seed: int = Field(0, description="root of every random stream")
    data: DataConfig = DataConfig()
    pretrain: PretrainConfig = PretrainConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    barycenter: BarycenterConfig = BarycenterConfig()
    recover: RecoverConfig = RecoverConfig()
    relabel: RelabelConfig = RelabelConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    ray: RayConfig = RayConfig()

    @classmethod
    def option(cls, name: str) -> str:
        """Return the dotted name of one of its fields: its own name."""
        return name


def parse_config(values: dict[str, Any]) -> DistillConfig:
    """Build a configuration from nested plain values.

    Raises:
        ConfigError: one line per mistake, naming option, value and what is allowed.
    """
    return DistillConfig.checked(values)


def override(config: DistillConfig, changes: dict[str, Any]) -> DistillConfig:
    """Return a copy with options changed, such as ``{"recover.lr": 0.1, "seed": 3}``.

    Args:
        changes: by dotted name, or by section: ``{"recover": {"lr": 0.1}}`` leaves the section's other values.

    Raises:
        ConfigError: one line for all mistakes, naming option, value and what is allowed.
    """
    values = config.model_dump(mode="python")
    for dotted, value in changes.items():
        *sections, name = dotted.split(".")
        target = values
        for section in sections:
            inner = target.get(section)
            if not isinstance(inner, dict):
                raise ConfigError(f"{dotted}: no such option; the sections are {', '.join(section_names())}")
            target = inner
        before = target.get(name)
        target[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, Mapping) else value
    return parse_config(values)


def section_names() -> list[str]:
    """List the sections, in the order of the pipeline."""
    return [name for name in DistillConfig.model_fields if name not in ("recipe", "method", "seed")]


def to_yaml(config: DistillConfig) -> str:
    """Write every value as YAML; `from_yaml` gives an equal configuration back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def merge(base: DistillConfig, values: dict[str, Any]) -> DistillConfig:
    """Lay a partial nested mapping over a configuration."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name in section_names():
            changes.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            changes[name] = value
    return override(base, changes)


def from_yaml(text: str, base: DistillConfig | None = None) -> DistillConfig:
    """Read YAML; keys that it leaves out keep the value of `base` (default: the defaults)."""
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as exc:
        raise ConfigError(f"not YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(values, dict):
        raise ConfigError(f"a configuration is a mapping of sections, not {type(values).__name__}")
    return merge(base or DistillConfig(), values)


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
    from wmdd.files import explain, open_fs, read  # fsspec is slow to import, and most commands read no file

    try:
        return read(*open_fs(path)).decode() if "://" in path else Path(path).read_text(encoding="utf-8")
    except (OSError, EOFError) as exc:
        reason = explain(exc) if "://" in path else getattr(exc, "strerror", exc)
        raise ConfigError(f"--config {path}: {reason}") from exc
    except (ConfigError, UnicodeDecodeError) as exc:
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
    try:
        values = yaml.safe_load(_text_of(path))
    except yaml.YAMLError:
        return NamedIn()
    if not isinstance(values, dict):
        return NamedIn()
    evaluate = values.get("evaluate")
    protocol = evaluate.get("protocol") if isinstance(evaluate, dict) else None
    found = [name if isinstance(name, str) else None for name in (values.get("recipe"), values.get("method"), protocol)]
    return NamedIn(found[0], found[1], found[2], all(section in values for section in section_names()))
