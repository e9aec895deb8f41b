"""The options that commands share, and the configuration that they name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from wmdd.cli.types import OneOf, Value, WholeFrom, shown
from wmdd.config.distill import STAGE_NAMES, DistillConfig, section_names
from wmdd.config.methods import methods
from wmdd.config.protocols import protocols
from wmdd.config.recipes import recipes
from wmdd.config.resolve import ConfigFile, resolve
from wmdd.engine.config_file import read_file
from wmdd.errors import ConfigError
from wmdd.process.terminal import full_path

_URL: dict[str, Any] = {"type": full_path, "metavar": "URL"}
IPC = click.option(
    "--ipc", type=WholeFrom(1), metavar="INT", help="Distilled images per class [default: the recipe's]."
)
METHOD = click.option("--method", type=OneOf(methods()), help="What makes the images [default: wmdd].")
_SHARED = (
    click.option("--protocol", type=OneOf(protocols()), help="Students' training [default: the recipe's]."),
    click.option("--seed", type=Value(int), metavar="INT", help="Root of every random stream [default: 0]."),
    click.option(
        "--config",
        "file",
        type=full_path,
        metavar="FILE",
        help="YAML laid over the recipe, or a run's config.yaml, which names it; options are laid over it.",
    ),
    click.option(
        "--quick",
        is_flag=True,
        help="A first look: a fifth of the label epochs, two students of each set at most; scores are lower.",
    ),
    click.option(
        "--debug",
        is_flag=True,
        help="Two steps, epochs and images per class, on 50 real images of each, to see that all of it runs.",
    ),
    click.option("--run", "run_url", **_URL, help="Run folder [default: runs/RECIPE, with what differs from it]."),
    click.option("--store", **_URL, help="Where artifacts are kept [default: store, next to the run folder]."),
)
SEEDS = click.option(
    "--num-students", type=WholeFrom(1), metavar="INT", help="Students of each set (short for --evaluate.num_students)."
)
EXECUTOR = click.option("--executor", type=OneOf(["ray", "local"]), default="ray", help="What runs the work.")
ADDRESS = click.option(
    "--address",
    metavar="TEXT",
    help="Ray cluster: auto, or HOST:6379 [default: RAY_ADDRESS, or a temporary local one].",
)
UNTIL = click.option(
    "--until",
    type=OneOf(STAGE_NAMES, "stage"),
    metavar="STAGE",
    help=f"End after a stage: recover makes the images, without students ({', '.join(STAGE_NAMES)}).",
)


def common(
    command: Callable[..., None], *, ipc: Callable[..., Any] = IPC, method: Callable[..., Any] = METHOD
) -> Callable[..., None]:
    """Add the options that name what is run, and where."""
    recipe = click.argument("recipe_name", metavar="[RECIPE]", required=False)
    for decorate in reversed((recipe, ipc, method, *_SHARED)):
        command = decorate(command)
    return command


_SHORT = {"seed": "seed", "ipc": "ipc", "evaluate.num_students": "num_students", "ray.address": "address"}


def configure(params: Mapping[str, Any]) -> DistillConfig:
    """Return the configuration that a command's parameters name; raise a `ConfigError` that names the option."""
    sections = section_names()
    given = {name: text for name, text in params.items() if name.partition(".")[0] in sections and text is not None}
    options: dict[str, Any] = dict(given)
    for label, name in _SHORT.items():
        value = params.get(name)
        if isinstance(value, tuple):  # of a comparison, which sets each in turn
            value = value[0] if value else None
        if value is None:
            continue
        if label in given and given[label] != str(value):
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} {value}, --{label} {given[label]}: are the same option; give one")
        options[label] = value
    recipe, file = params["recipe_name"], file_of(params)
    if recipe and recipe not in recipes() and os.path.isfile(os.path.join(recipe, "config.yaml")):
        path = f"{recipe.rstrip('/')}/config.yaml"
        raise ConfigError(f"RECIPE {recipe}: is a run folder; give the file in it, --config {path}")
    try:
        looks = {"debug": bool(params.get("debug")), "quick": bool(params.get("quick"))}
        return resolve(recipe, params.get("method"), params.get("protocol"), file, options, **looks)
    except ConfigError as exc:
        raise as_typed(exc, {label: f"--{label} {shown(text)}" for label, text in given.items()}) from exc


def file_of(params: Mapping[str, Any]) -> ConfigFile | None:
    """Return the file that ``--config`` names, if any."""
    return read_file(params["file"]) if params["file"] else None


def as_typed(error: ConfigError, typed: Mapping[str, str], before: str = "--") -> ConfigError:
    """Return an error that names each option as the user typed it.

    Args:
        typed: by option, the flag and value that were typed for it.
        before: begins the names of all other options.
    """
    lines = []
    for path, value, message in error.mistakes:
        words = next((words for label, words in typed.items() if path == label or path.startswith(f"{label}.")), "")
        lines.append(f"{words or f'{before}{path}' + (f' {value}' if value else '')}: {message}")
    return ConfigError("; ".join(lines)) if lines else error


def check_cluster(executor: str, config: DistillConfig, params: Mapping[str, Any]) -> None:
    """Raise a `ConfigError` for a cluster that no run can join, or for one with a command that runs in one process."""
    if executor == "ray":
        check_address(config)
        return
    for name, option in (("address", "--address"), ("ray.address", "--ray.address")):
        if params.get(name) not in (None, "none"):
            raise ConfigError(f"{option} {params[name]}: --executor local joins no cluster; leave one of them out")


def check_address(config: DistillConfig) -> None:
    """Refuse an address that no run can join, before any work."""
    from ray_jobs.connect import find_address

    find_address(config.ray.address or os.environ.get("RAY_ADDRESS"))
