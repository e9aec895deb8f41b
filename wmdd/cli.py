"""The command `wmdd`."""

from __future__ import annotations

import functools
import logging
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from wmdd.cli_cluster import cluster
from wmdd.cli_jobs import list_jobs, logs, stop, submit
from wmdd.cli_tune import read_options, read_search, run_search, tune_options
from wmdd.config import DistillConfig, Section, override, read_config, section_names
from wmdd.errors import ConfigError, DataError, WmddError
from wmdd.recipes import recipe, recipes


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


def _parsed(label: str, text: str) -> Any:
    section, name = label.split(".")
    annotation = type(getattr(DistillConfig(), section)).model_fields[name].annotation
    parts = typing.get_args(annotation)
    if text == "none" and type(None) in parts:
        return None
    if typing.get_origin(annotation) is tuple or any(typing.get_origin(part) is tuple for part in parts):
        return tuple(item.strip() for item in text.split(","))
    return text


def configure(params: dict[str, Any]) -> DistillConfig:
    """Build the configuration that a command line names.

    Args:
        params: of the command, by click's names.

    Raises:
        ConfigError: naming the option.
    """
    config = recipe(params["recipe_name"])
    if params["file"]:
        config = read_config(params["file"], config)
    given = {name.replace("__", "."): text for name, text in params.items() if "__" in name and text is not None}
    changes = {label: _parsed(label, text) for label, text in given.items()}
    for label, name in (("seed", "seed"), ("barycenter.ipc", "ipc"), ("ray.address", "address")):
        if params.get(name) is not None:
            changes[label] = params[name]
    try:
        return override(config, changes)
    except ConfigError as exc:
        raise ConfigError(f"--{exc}") from exc


def _common(command: Callable[..., None], *, recipe_needed: bool = True) -> Callable[..., None]:
    for decorate in (
        click.option("--ipc", type=int, metavar="INT", help="Distilled images per class (short for --barycenter.ipc)."),
        click.option("--seed", type=int, metavar="INT", help="Root of every random stream [default: 0]."),
        click.option(
            "--store", metavar="URL", help="Where artifacts are kept [default: store, beside the run folder]."
        ),
        click.option("--run", "run_url", metavar="URL", help="Run folder [default: runs/RECIPE]."),
        click.option("--config", "file", metavar="FILE", help="YAML laid over the recipe; options are laid over it."),
        click.argument("recipe_name", metavar="RECIPE", required=recipe_needed),
    ):
        command = decorate(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wmdd")
def cli() -> None:
    """Distil an image data set into a few synthetic images per class, with the Wasserstein metric."""


ADDRESS = click.option(
    "--address",
    metavar="TEXT",
    help="Ray cluster to run on: auto, or HOST:6379 [default: RAY_ADDRESS, or a Ray of its own].",
)


@cli.command(cls=ConfigCommand)
@_common
@click.option(
    "--executor", type=click.Choice(["ray", "local"]), default="ray", show_default=True, help="What runs the work."
)
@ADDRESS
def distill(run_url: str | None, store: str | None, executor: str, **params: Any) -> None:
    """Distil RECIPE's images, train students on the result, and write a report.

    Started again after a crash, or with other options, it computes only what is missing.
    """
    from wmdd.api import distill as run
    from wmdd.log import ConsoleListener

    config = configure(params)
    if executor == "ray":
        _check_address(config)
    console = Console(soft_wrap=False)
    with ConsoleListener(console) as listener:
        result = run(config, run=run_url, store=store, executor=executor, listener=listener, status=_status(console))
    console.print(_table(result.metrics))
    console.print(f"images  {result.url}/images/   picture {result.url}/images.png", soft_wrap=True, highlight=False)
    console.print(f"report  {result.url}/report.html", soft_wrap=True, highlight=False)


@cli.command(cls=ConfigCommand)
@_common
def plan(run_url: str | None, store: str | None, **params: Any) -> None:
    """Print what `distill` would run and what is in the store already; run nothing but the data's index."""
    from wmdd.api import beside
    from wmdd.plan import make_plan
    from wmdd.store import ArtifactStore

    config = configure(params)
    console, artifacts = Console(), ArtifactStore(store or beside(run_url or f"runs/{config.recipe}"))
    made = make_plan(config, artifacts, _status(console))
    sizes = f"{len(made.index.train)} training and {len(made.index.val)} validation images"
    console.print(
        f"{len(made.index.class_names)} classes, {sizes}{_held_out(made.index.val_held_out)}", highlight=False
    )
    table = Table("stage", "units", "in the store", "to run", "first units to run")
    for stage in made.tasks:
        refs = made.refs(stage)
        missing = [ref.unit for ref in refs if ref not in artifacts]
        units = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        table.add_row(stage, str(len(refs)), str(len(refs) - len(missing)), str(len(missing)), units)
    console.print(table)


@cli.command(cls=ConfigCommand)
@functools.partial(_common, recipe_needed=False)
@ADDRESS
@tune_options
@click.option("--resume", metavar="URL", help="Go on with the search in this run folder, in place of RECIPE.")
@click.argument("words", nargs=-1, metavar="[FIELD=DOMAIN]...")
def tune(run_url: str | None, store: str | None, resume: str | None, words: tuple[str, ...], **params: Any) -> None:
    """Search RECIPE's options, recover.bn_weight if no others are named, for the best top-1.

    Students are scored on a part of the training images, which the search trains on nowhere. Started again with the
    same words, or with --resume RUN, it goes on where it was.
    """
    if resume is None and params["recipe_name"] is None:
        raise ConfigError("tune: give a RECIPE (wmdd recipes lists them), or --resume RUN")
    if resume is not None:
        address = params["address"]
        config, options, store = read_search(resume)
        config = override(config, {"ray.address": address}) if address else config
    else:
        options = read_options(params, words)
        config = configure(params)
    _check_address(config)
    run_search(config, options, resume or run_url, store, _status)


@cli.command("recipes")
def list_recipes() -> None:
    """List the recipes."""
    table = Table("recipe", "what", "teacher", "px", "ipc")
    for name, about in recipes().items():
        config = recipe(name)
        cells = (config.pretrain.model, str(config.data.image_size), str(config.barycenter.ipc))
        table.add_row(name, about, *cells)
    Console().print(table)


@cli.command()
@click.argument("run_url", metavar="RUN")
def report(run_url: str) -> None:
    """Write RUN's report and files again, from its store."""
    from wmdd.api import rewrite

    console = Console()
    result = rewrite(run_url)
    console.print(_table(result.metrics))
    console.print(f"report  {result.url}/report.html", soft_wrap=True, highlight=False)


for command in (submit, list_jobs, logs, stop, cluster):
    cli.add_command(command)


def _check_address(config: DistillConfig) -> None:
    from ray_jobs.connect import find_address

    find_address(config.ray.address or os.environ.get("RAY_ADDRESS"))


def _held_out(held_out: bool) -> str:
    return " (held out of the training images: the set has no validation split)" if held_out else ""


def _status(console: Console) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if console.is_terminal:
            console.print(f"indexing   {done}/{total} images", end="\r", highlight=False)

    return tell


def _table(metrics: dict[str, Any]) -> Table:
    from wmdd.report.scores import score_rows

    protocol = metrics["protocol"]
    table = Table(
        "trained on", "images", "top-1, last", "top-1, best", title=f"protocol {protocol['name']} {protocol['hash']}"
    )
    for row in score_rows(metrics):
        table.add_row(row.name, row.images, row.last, row.best)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit 2 with one line for bad input, 1 for a failed run, 130 when interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    command = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    kept = (
        ". What was finished is kept: the same command goes on from there"
        if command in ("distill", "plan", "tune")
        else ""
    )
    try:
        cli.main(args=arguments, prog_name="wmdd", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message())
        return 2
    except click.ClickException as exc:
        message = " ".join(exc.format_message().split())
        return _say(f"{message} ({_path(exc)} --help lists all options)", 2)
    except (ConfigError, DataError) as exc:
        return _say(str(exc), 2)
    except WmddError as exc:
        return _say(f"{exc}{kept}", 1)
    except (KeyboardInterrupt, click.Abort):
        return _say(f"interrupted{kept}", 130)
    return 0


def _path(exc: click.ClickException) -> str:
    context = getattr(exc, "ctx", None)
    return context.command_path if context else "wmdd"


def _say(message: str, status: int) -> int:
    click.echo(f"wmdd: {message}", err=True)
    return status
