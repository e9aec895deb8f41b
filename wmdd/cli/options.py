"""The options that commands share: one per field of the configuration, and those that name recipe, run and store."""

from __future__ import annotations

import os
import sys
import types
import typing
from collections.abc import Callable, Container
from typing import Any

import click

from wmdd.cli.types import OneOf, Whole, WholeFrom, shown
from wmdd.config.distill import DistillConfig, field_type, override, section_names
from wmdd.config.methods import methods, with_method
from wmdd.config.protocols import protocols, with_protocol
from wmdd.config.recipes import DEBUG, recipe, recipes
from wmdd.config.sections import Section
from wmdd.config.values import from_text
from wmdd.engine.config_file import NamedIn, names_in, read_config
from wmdd.errors import ConfigError
from wmdd.process.terminal import full_path


class ConfigOption(click.Option):
    """An option for one field of the configuration."""


class ConfigCommand(click.Command):
    """A command with one option per field of the configuration, grouped by section in its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        named = next((word for word in sys.argv[2:] if word in recipes()), None)
        self.params += _config_options(recipe(named) if named else DistillConfig())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then each section's."""
        rows: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                label, dot, _ = record[0].removeprefix("--").partition(".")
                section = label if dot and " " not in label else "Options"
                rows.setdefault(section, []).append(record)
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=38)


def _config_options(defaults: DistillConfig) -> list[click.Parameter]:
    options: list[click.Parameter] = []
    for section in section_names():
        values: Section = getattr(defaults, section)
        for name, field in type(values).model_fields.items():
            label = f"{section}.{name}"
            shown = _shown(getattr(values, name))
            text = f"{field.description} [default: {shown}]"
            options.append(
                ConfigOption([f"--{label}", f"{section}__{name}"], metavar=_metavar(field.annotation), help=text)
            )
    return options


def _metavar(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _metavar(inner[0])
    if origin in (typing.Union, types.UnionType):
        return "|".join(_metavar(part) for part in inner)
    if origin is typing.Literal:
        return "|".join(str(value) for value in inner)
    if origin is tuple:
        return f"{_metavar(inner[0])},..."
    return {"str": "TEXT", "int": "INT", "float": "FLOAT", "bool": "true|false", "NoneType": "none"}[
        annotation.__name__
    ]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def configure(params: dict[str, Any]) -> DistillConfig:
    """Build the configuration that a command line names.

    Args:
        params: of the command, by click's names.

    Raises:
        ConfigError: naming the option.
    """
    if params.get("evaluate__protocol"):
        raise ConfigError("--evaluate.protocol: names how students are trained and sets nothing; use --protocol")
    named = names_in(params["file"]) if params["file"] else NamedIn()
    config = base_of(params, named)
    protocol = _agreed("protocol", params, named.protocol, protocols())
    if protocol and not (named.whole and not params.get("protocol")):
        # What it sets depends on the set, the students and the images per class, wherever these are given.
        asked = _laid_over(with_protocol(config, protocol), params)
        students = config.evaluate.model_copy(update={"students": asked.evaluate.students})
        parts = {"recipe": asked.recipe, "data": asked.data, "barycenter": asked.barycenter, "evaluate": students}
        made = with_protocol(config.model_copy(update=parts), protocol)
        config = config.model_copy(update={"relabel": made.relabel, "evaluate": made.evaluate})
    return _laid_over(config, params)


def base_of(params: dict[str, Any], named: NamedIn | None = None) -> DistillConfig:
    """Return the recipe, under a method, that a command line or its configuration file names.

    Raises:
        ConfigError: if neither names one, both name one and differ, or a part of a configuration names an unknown one.
    """
    file, given = params["file"], params["recipe_name"]
    named = named or (names_in(file) if file else NamedIn())
    noted = (named.recipe or "").removesuffix("-debug")
    if given and noted not in ("", given) and (noted in recipes() or named.whole):
        raise ConfigError(f"--config {file}: is of recipe {noted}, not {given}; leave RECIPE {given} out, or the file")
    if given and given not in recipes() and os.path.isfile(os.path.join(given, "config.yaml")):
        raise ConfigError(
            f"RECIPE {given}: is a run folder; give the file in it, --config {given.rstrip('/')}/config.yaml"
        )
    is_unknown = noted not in ("", "custom", *recipes()) and not named.whole
    if is_unknown and (not given or given in recipes()):
        remedy = f"leave that line out, RECIPE {given} is given" if given else "write one of these"
        raise ConfigError(f"--config {file}: recipe {named.recipe} is none of {', '.join(recipes())}; {remedy}")
    if given or noted in recipes():
        config = recipe(given or noted)
    elif named.recipe and named.whole:  # from Python, or under a name of its own: it has every option
        config = DistillConfig(recipe=named.recipe)
    elif file:
        raise ConfigError(f"--config {file}: names no recipe; give a RECIPE ({', '.join(recipes())})")
    else:
        raise ConfigError(f"RECIPE: give one ({', '.join(recipes())}), or --config with the config.yaml of a run")
    return with_method(config, _agreed("method", params, named.method, methods()) or "wmdd")


def _agreed(option: str, params: dict[str, Any], noted: str | None, known: Container[str]) -> str | None:
    """Return what the command line or its file names; a file's unknown name is refused where the file is read."""
    given: str | None = params.get(option)
    if given and noted and given != noted:
        raise ConfigError(
            f"--{option} {given}: --config {params['file']} is of {option} {noted}, and has its options; leave one out"
        )
    return given or (noted if noted in known else None)


def _laid_over(config: DistillConfig, params: dict[str, Any]) -> DistillConfig:
    """Lay the file and the options over a recipe."""
    if params["file"]:
        config = read_config(params["file"], config)
    if params.get("debug"):
        config = override(config, {"recipe": f"{config.recipe.removesuffix('-debug')}-debug", **DEBUG})
    given = {name.replace("__", "."): text for name, text in params.items() if "__" in name and text is not None}
    changes = {label: from_text(field_type(label), text) for label, text in given.items()}
    for label, name in _SHORT.items():
        if params.get(name) is None:
            continue
        if label in given and given[label] != str(params[name]):
            raise ConfigError(f"--{name} {params[name]}, --{label} {given[label]}: are the same option; give one")
        changes[label] = params[name]
    try:
        return override(config, changes)
    except ConfigError as exc:
        raise ConfigError(as_typed(exc, {label: f"--{label} {shown(text)}" for label, text in given.items()})) from exc


def as_typed(error: ConfigError, typed: dict[str, str], before: str = "--") -> str:
    """Return what is wrong with options, each as the command line has it.

    Args:
        typed: flag and value by option, such as ``recover.lr``.
        before: what stands before an option that is not among these.
    """
    told = []
    for path, value, message in error.mistakes:
        own = next((words for label, words in typed.items() if path == label or path.startswith(f"{label}.")), "")
        told.append(f"{own or f'{before}{path}' + (f' {value}' if value else '')}: {message}")
    return "; ".join(told) or f"{before}{error}"


_SHORT = {"seed": "seed", "barycenter.ipc": "ipc", "evaluate.seeds": "seeds", "ray.address": "address"}
SEEDS = click.option(
    "--seeds", type=WholeFrom(1), metavar="INT", help="Students of each set (short for --evaluate.seeds)."
)


def common(command: Callable[..., None], *, several_ipc: bool = False) -> Callable[..., None]:
    """Add the options that name what is run, and where."""
    for decorate in (
        click.option(
            "--ipc",
            type=str if several_ipc else WholeFrom(1),
            metavar="INT,..." if several_ipc else "INT",
            help="Distilled images per class (short for --barycenter.ipc).",
        ),
        click.option("--seed", type=Whole(), metavar="INT", help="Root of every random stream [default: 0]."),
        click.option(
            "--store",
            type=full_path,
            metavar="URL",
            help="Where artifacts are kept [default: store, beside the run folder].",
        ),
        click.option(
            "--run",
            "run_url",
            type=full_path,
            metavar="URL",
            help="Run folder [default: runs/RECIPE, with what differs from it].",
        ),
        click.option(
            "--method",
            type=OneOf(methods()),
            hidden=several_ipc,  # a comparison takes --methods, and says so
            help="What makes the images [default: wmdd].",
        ),
        click.option("--protocol", type=OneOf(protocols()), help="Students' training [default: the recipe's own]."),
        click.option(
            "--debug",
            is_flag=True,
            help="Two steps, epochs and images per class, on 50 real images of each, to see that all of it runs.",
        ),
        click.option(
            "--config",
            "file",
            type=full_path,
            metavar="FILE",
            help="YAML laid over the recipe, or a run's config.yaml, which names it; options are laid over it.",
        ),
        click.argument("recipe_name", metavar="[RECIPE]", required=False),
    ):
        command = decorate(command)
    return command


ADDRESS = click.option(
    "--address",
    metavar="TEXT",
    help="Ray cluster to run on: auto, or HOST:6379 [default: RAY_ADDRESS, or a Ray of its own].",
)


def refuse_address(params: dict[str, Any]) -> None:
    """Raise ConfigError if a command that runs in one process is given a cluster."""
    for name, option in (("address", "--address"), ("ray__address", "--ray.address")):
        if params.get(name) not in (None, "none"):
            raise ConfigError(f"{option} {params[name]}: --executor local joins no cluster; leave one of them out")


def check_address(config: DistillConfig) -> None:
    """Refuse an address that no run can join, before any work."""
    from ray_jobs.connect import find_address

    find_address(config.ray.address or os.environ.get("RAY_ADDRESS"))
