"""The configuration of a run, from Python, YAML or options: frozen, checked whole, unknown keys refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import yaml

from wmdd.config.base import Count, Section, check_changes, option
from wmdd.config.machines import RayConfig, RuntimeConfig
from wmdd.config.methods import Method
from wmdd.config.recovery import BarycenterConfig, RecoverConfig, StatisticsConfig
from wmdd.config.students import EvaluateConfig, RelabelConfig
from wmdd.config.teacher import DataConfig, PretrainConfig
from wmdd.config.values import load_yaml
from wmdd.errors import ConfigError
from wmdd.text import did_you_mean

STAGE_NAMES = ("pretrain", "statistics", "barycenter", "recover", "select", "relabel", "evaluate")

TILES_UP_TO_IPC = 1  # largest ipc at which `recover.tiles` 0 means 2, as docs/accuracy.md measures it


class DistillConfig(Section):
    """Everything that decides a run: a few options, and a section for each stage.

    ``help(config.recover)`` lists the options of a section; ``override(config, {"recover.lr": 0.1})`` changes one.
    """

    recipe: str = option("custom", "name that the run folder and the report carry")
    method: Method = option("wmdd", "what makes the images; see `wmdd.config.methods`")
    seed: int = option(0, "root of every random stream")
    ipc: Count = option(10, "distilled images per class")
    data: DataConfig = DataConfig()
    pretrain: PretrainConfig = PretrainConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    barycenter: BarycenterConfig = BarycenterConfig()
    recover: RecoverConfig = RecoverConfig()
    relabel: RelabelConfig = RelabelConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    ray: RayConfig = RayConfig()

    @property
    def atoms(self) -> int:
        """Atoms of a class's barycenter: one for each distilled image, or for each of its tiles."""
        return self.ipc * self.tiles**2

    @property
    def tiles(self) -> int:
        """Tiles on each side of an image: those of the option, or for its 0 two at 1 per class where they fit."""
        section = self.recover
        have_class = section.bn_target == "class" and self.barycenter.mass == "uniform"
        return section.tiles or (
            2 if self.ipc <= TILES_UP_TO_IPC and have_class and not self.data.image_size % 2 else 1
        )

    def settled(self) -> DistillConfig:
        """Return it with the tiles as a number; itself if the option is one."""
        if self.recover.tiles:
            return self
        return self.model_copy(update={"recover": self.recover.model_copy(update={"tiles": self.tiles})})

    @classmethod
    def option(cls, name: str) -> str:
        """Return the dotted name of one of its fields: its own name."""
        return name

    @classmethod
    def near(cls, dotted: str) -> str:
        """Return a question with the options that a wrong name may stand for; nothing where none is near."""
        options = [*_fields(""), *(f"{section}.{name}" for section in section_names() for name in _fields(section))]
        same = [option for option in options if option.rpartition(".")[2] == dotted.rpartition(".")[2]]
        near = difflib.get_close_matches(dotted, same, 3, 0) or difflib.get_close_matches(dotted, options, 1, 0.8)
        return did_you_mean(near)


def _fields(section: str) -> dict[str, Any]:
    """Return the types of a section's options, of the top level for an empty name."""
    model = DistillConfig.model_fields[section].annotation if section else DistillConfig
    return {name: field.annotation for name, field in model.model_fields.items()}  # type: ignore[union-attr]


def field_type(dotted: str) -> Any:
    """Return the type of an option such as ``recover.lr``; None for an unknown name."""
    section, _, name = dotted.rpartition(".")
    return _fields(section).get(name) if not section or section in section_names() else None


def override(config: DistillConfig, changes: Mapping[str, Any]) -> DistillConfig:
    """Return a copy with options changed, such as ``{"recover.lr": 0.1, "seed": 3}``.

    Args:
        changes: by dotted name, or by section: ``{"recover": {"lr": 0.1}}`` leaves the section's other values. A value
            may be the text that the command line takes: ``{"data.classes": "cat,dog"}``.

    Raises:
        ConfigError: one line for all mistakes, naming option, value and what is allowed.
    """
    if not isinstance(config, DistillConfig):
        raise ConfigError(f"config: is of type {type(config).__name__}; give a DistillConfig, as recipe() returns it")
    values = config.model_dump(mode="python")
    for dotted, value in _flat(changes).items():
        *sections, name = dotted.split(".")
        target = values
        for section in sections:
            inner = target.get(section)
            if not isinstance(inner, dict):
                sections_are = f"the sections are {', '.join(section_names())}"
                raise ConfigError(f"{dotted}: no such option; {sections_are}{DistillConfig.near(dotted)}")
            target = inner
        target[name] = value
    return DistillConfig.checked(values)


def _flat(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes by dotted name, those of whole sections too."""
    check_changes("changes", changes)
    flat: dict[str, Any] = {}
    for name, value in changes.items():
        is_section = name in section_names() and isinstance(value, Mapping | Section)
        options = {f"{name}.{key}": inner for key, inner in dict(value).items()} if is_section else {name: value}
        twice = next((option for option in options if option in flat), None)
        if twice:
            raise ConfigError(f"{twice}: is given twice; leave one out")
        flat |= options
    return flat


def section_names() -> list[str]:
    """List the sections, in the order of the pipeline."""
    return [name for name in DistillConfig.model_fields if name not in ("recipe", "method", "seed", "ipc")]


def to_yaml(config: DistillConfig) -> str:
    """Write every value as YAML; `from_yaml` gives an equal configuration back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def from_yaml(text: str) -> DistillConfig:
    """Read YAML; keys that it leaves out are at their defaults. A `ConfigError` names the option or the line."""
    return override(DistillConfig(), changes_in(text))


def changes_in(text: str) -> dict[str, Any]:
    """Return the options that YAML sets, by dotted name; raise a `ConfigError` that names the option or the line.

    A value means what the same text means on the command line, so ``classes: [010, no]`` are these names.
    """
    values = load_yaml(text)
    for name in section_names():
        value = values.get(name, {})
        if value is None:  # all its lines are comments
            values[name] = {}
        elif not isinstance(value, dict):
            shown = "[...]" if isinstance(value, list) else value
            example = f"{name}: {{{next(iter(_fields(name)))}: ...}}"
            raise ConfigError(f"{name}={shown}: is a section; write its options below it, as in {example}")
    return _flat(values)
