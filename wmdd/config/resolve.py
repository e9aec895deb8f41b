"""The one place that lays layers over each other: recipe, method, protocol, file, --quick, --debug, single options."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from wmdd.config.base import SMALL_BELOW_PX
from wmdd.config.distill import DistillConfig, override, section_names
from wmdd.config.methods import METHODS
from wmdd.config.protocols import COMMON, PROTOCOLS
from wmdd.config.recipes import DEBUG, quick_options, recipe, recipes
from wmdd.errors import ConfigError
from wmdd.text import unknown


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file that is laid over a recipe.

    Args:
        name: path or URL, for messages.
        changes: the options that it sets, by dotted name.
    """

    name: str
    changes: Mapping[str, Any]

    @property
    def recipe(self) -> str:
        """Name of the recipe that it is of, without the mark of --debug; empty for none."""
        name = str(self.changes.get("recipe", "")).removesuffix("-debug")
        return "" if name == "custom" and not self.is_whole else name

    @property
    def is_whole(self) -> bool:
        """Whether it has every section, as the file of a run."""
        return set(section_names()) <= {option.partition(".")[0] for option in self.changes}

    def over(self, config: DistillConfig) -> DistillConfig:
        """Return a configuration with its options; raise a `ConfigError` that names the file and the option."""
        try:
            return override(config, self.changes)
        except ConfigError as exc:
            raise ConfigError(f"--config {self.name}: {exc}") from exc


def resolve(
    recipe: DistillConfig | str | None,
    method: str | None = None,
    protocol: str | None = None,
    file: ConfigFile | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    debug: bool = False,
    quick: bool = False,
) -> DistillConfig:
    """Return the configuration that the layers give, each laid over those before it.

    Args:
        recipe: its name, or a configuration to begin with; None: the file names it.
        method, protocol: names; None: the file's, if it names one.
        options: by dotted name; a value may be the text that the command line takes.
        debug: whether to take two steps, epochs and images per class, on few real images, to see that all of it runs.
        quick: whether to take a fifth of the label epochs, and two students (`recipes.quick_options`).

    Raises:
        ConfigError: naming option, value and remedy; `mistakes` are of single options.
    """
    if options and "evaluate.protocol" in options:
        raise ConfigError("--evaluate.protocol: names how students are trained and sets nothing; use --protocol")

    def over(config: DistillConfig) -> DistillConfig:
        config = file.over(config) if file else config
        if quick:
            config = override(config, quick_options(config))
        if debug:
            config = override(config, {"recipe": f"{config.recipe.removesuffix('-debug')}-debug", **DEBUG})
        return override(config, options or {})

    config = base_of(recipe, method, file)
    name = _agreed("evaluate.protocol", protocol, file, PROTOCOLS)
    if name and (protocol or not (file and file.is_whole)):
        config = under_protocol(config, name, over(with_protocol(config, name)))
    return over(config)


def under_protocol(config: DistillConfig, name: str, target: DistillConfig) -> DistillConfig:
    """Return a configuration with a protocol's settings for the set, students and images per class of `target`."""
    students = config.evaluate.model_copy(update={"students": target.evaluate.students})
    parts = {"recipe": target.recipe, "data": target.data, "ipc": target.ipc, "evaluate": students}
    named = with_protocol(config.model_copy(update=parts), name)
    return config.model_copy(update={"relabel": named.relabel, "evaluate": named.evaluate})


def base_of(recipe: DistillConfig | str | None, method: str | None, file: ConfigFile | None) -> DistillConfig:
    """Return the recipe, under a method, that words or a file name; the lowest layer.

    Raises:
        ConfigError: if neither names a recipe, both name one and differ, or one of the names is unknown.
    """
    config = recipe if isinstance(recipe, DistillConfig) else _recipe_of(recipe, file)
    name = _agreed("method", method, file, METHODS)
    return with_method(config, name) if name else config


def _recipe_of(given: str | None, file: ConfigFile | None) -> DistillConfig:
    names = ", ".join(recipes())
    if file is None:
        if not given:
            raise ConfigError(f"RECIPE: give one ({names}), or --config with the config.yaml of a run")
        return recipe(given)
    named, option = file.recipe, f"--config {file.name}"
    is_known = named in recipes() or file.is_whole
    if is_known and given and named not in ("", given):
        raise ConfigError(f"{option}: is of recipe {named}, not {given}; leave RECIPE {given} out, or the file")
    if named and not is_known and (not given or given in recipes()):
        remedy = f"; or leave that line out, RECIPE {given} is given" if given else ""
        raise ConfigError(f"{option}: {unknown('recipe', named, recipes())}{remedy}")
    if given or named in recipes():
        return recipe(given or named)
    if not named:
        raise ConfigError(f"{option}: names no recipe; give a RECIPE ({names})")
    return DistillConfig(recipe=named)  # made in Python, and written with every option


def _agreed(field: str, given: str | None, file: ConfigFile | None, known: Container[str]) -> str | None:
    """Return the name that was given, or the file's; an unknown one of a file is refused when it is laid over."""
    named = file.changes.get(field) if file else None
    if file and given and named and given != named:
        noun = field.rpartition(".")[2]
        raise ConfigError(
            f"--{noun} {given}: --config {file.name} is of {noun} {named}, and has its options; leave one out"
        )
    return given or (named if named in known else None)


def with_method(config: DistillConfig, name: str) -> DistillConfig:
    """Return a recipe under another method; raise a `ConfigError` that lists the methods for an unknown name."""
    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS))
    changes = dict(METHODS[name][1])
    # SRe2L's weights: 0.01 for ImageNet-1K, 1 for Tiny-ImageNet. Its 0.01 for CIFAR did worse in our few steps.
    small = config.data.image_size < SMALL_BELOW_PX or config.recipe.startswith("tiny-imagenet")
    if "recover.bn_weight" in changes and not small:
        changes["recover.bn_weight"] = 0.01
    return override(config, {"method": name, **changes})


def with_protocol(config: DistillConfig, name: str) -> DistillConfig:
    """Return a recipe with a protocol's settings for its set, students and images per class.

    Raises:
        ConfigError: for an unknown name; lists the known ones.
    """
    if name not in PROTOCOLS:
        raise ConfigError(unknown("protocol", name, PROTOCOLS))
    return override(config, {"evaluate.protocol": name, **COMMON, **PROTOCOLS[name][1](config)})


def is_exact(config: DistillConfig) -> bool:
    """Whether a configuration's settings are those of the protocol that it names."""
    try:
        named = with_protocol(config, config.evaluate.protocol)
    except ConfigError:
        return False
    relaxed = {"evaluate.val_every": config.evaluate.val_every}
    return override(named, relaxed) == config
