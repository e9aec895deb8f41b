"""The command `wmdd`."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.table import Table

from wmdd.cli.cluster import cluster
from wmdd.cli.compare import compare
from wmdd.cli.export import export
from wmdd.cli.jobs import list_jobs, logs, stop, submit
from wmdd.cli.options import ADDRESS, ConfigCommand, check_address, common, configure, refuse_address
from wmdd.cli.rank import rank
from wmdd.cli.released_flags import answer
from wmdd.cli.tune import read_options, read_search, run_search, tune_options
from wmdd.cli.types import OneOf, usage
from wmdd.config.callers import command_line
from wmdd.config.distill import STAGE_NAMES, override
from wmdd.config.methods import methods
from wmdd.config.protocols import protocols
from wmdd.config.recipes import recipe, recipes
from wmdd.cpus import wait_passively
from wmdd.engine.console import show_index
from wmdd.errors import ConfigError, DataError, WmddError
from wmdd.process import interruptions
from wmdd.process.terminal import LineFormatter, Terminal, full_path, prepare_streams
from wmdd.text import printable


class _Commands(click.Group):
    """Leaves the line of an interruption to the command; click would write an empty one first."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as exc:
            if sys.stderr.isatty():
                click.echo(err=True)  # after the terminal's own ^C
            raise click.Abort from exc


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wmdd")
def cli() -> None:
    """Distil an image data set into a few synthetic images per class, with the Wasserstein metric."""


UNTIL = click.option(
    "--until",
    type=OneOf(STAGE_NAMES),
    metavar="STAGE",
    help=f"End after a stage: recover makes the images, without students ({', '.join(STAGE_NAMES)}).",
)


@cli.command(cls=ConfigCommand)
@common
@click.option("--executor", type=OneOf(["ray", "local"]), default="ray", show_default=True, help="What runs the work.")
@ADDRESS
@UNTIL
def distill(run_url: str | None, store: str | None, executor: str, until: str | None, **params: Any) -> None:
    """Distil RECIPE's images, train students on the result, and write a report.

    Started again after a crash, or with other options, it computes only what is missing.
    """
    config = configure(params)
    if executor == "ray":
        check_address(config)
    else:
        refuse_address(params)
    from wmdd.commands.distill import distill as run  # takes seconds, which a mistyped option does not wait for
    from wmdd.engine.console import ConsoleListener

    console = Terminal()
    with ConsoleListener(console) as listener:
        shown: dict[str, Any] = {"listener": listener, "status": show_index(console)}
        result = run(config, run=run_url, store=store, executor=executor, until=until, **shown)
    _print_result(console, result.metrics)
    images = f"images  {result.url}/images/   picture {result.url}/images.png"
    if "images" not in result.metrics["missing"]:
        console.print(images, soft_wrap=True)
    console.print(f"report  {result.url}/report.html", soft_wrap=True)


@cli.command(cls=ConfigCommand)
@common
@click.option("--executor", type=OneOf(["ray", "local"]), expose_value=False, hidden=True)  # as distill has it
@UNTIL
def plan(run_url: str | None, store: str | None, until: str | None, **params: Any) -> None:
    """Print what `distill` would run and what is in the store already; run nothing but the data's index."""
    config = configure(params)
    from wmdd.commands.distill import open_places
    from wmdd.data.set_notes import describe_classes
    from wmdd.engine.events import Event
    from wmdd.engine.plan import make_plan
    from wmdd.engine.until import cut

    console, told = Terminal(), list[Event]()
    _, artifacts = open_places(run_url, store, config, "distill", told.append)
    made = cut(make_plan(config, artifacts, show_index(console)), until)
    sizes = f"{len(made.index.train)} training and {len(made.index.val)} validation images"
    console.print(f"{len(made.index.class_names)} classes, {sizes}{_held_out(made.index.val_held_out)}")
    for line in (describe_classes(made.index), *made.index.notes, *(event.text for event in told)):
        console.print(line, soft_wrap=True)
    table = Table("stage", "units", "in the store", "to run", "first units to run")
    for stage in (stage for stage in made.tasks if made.tasks[stage] or not until):
        refs = made.refs(stage)
        missing = [ref.unit for ref in refs if ref not in artifacts]
        units = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        table.add_row(stage, str(len(refs)), str(len(refs) - len(missing)), str(len(missing)), units)
    console.print(table)


@cli.command(cls=ConfigCommand)
@common
@ADDRESS
@tune_options
@click.option(
    "--resume", type=full_path, metavar="URL", help="Go on with the search in this run folder, in place of RECIPE."
)
@click.argument("words", nargs=-1, metavar="[FIELD=DOMAIN]...")
def tune(run_url: str | None, store: str | None, resume: str | None, words: tuple[str, ...], **params: Any) -> None:
    """Search RECIPE's options, recover.bn_weight if no others are named, for the best top-1.

    Students are scored on a part of the training images, which the search trains on nowhere. Started again with the
    same words, or with --resume RUN, it goes on where it was.
    """
    if params["recipe_name"] and params["file"] and "=" in params["recipe_name"]:
        words, params["recipe_name"] = (params["recipe_name"], *words), None  # the file names the recipe
    if resume is None and params["recipe_name"] is None and params["file"] is None:
        raise ConfigError("tune: give a RECIPE (wmdd recipes lists them), or --resume RUN")
    if resume is not None:
        address = params["address"]
        config, options, store = read_search(resume)
        config = override(config, {"ray.address": address}) if address else config
    else:
        options = read_options(params, words)
        config = configure(params)
    check_address(config)
    run_search(config, options, resume or run_url, store)


@cli.command("recipes")
def list_recipes() -> None:
    """List the recipes."""
    table = Table("recipe", "what", "teacher", "px", "ipc")
    for name, about in recipes().items():
        config = recipe(name)
        cells = (config.pretrain.model, str(config.data.image_size), str(config.barycenter.ipc))
        table.add_row(name, about, *cells)
    Terminal().print(table)


@cli.command("methods")
def list_methods() -> None:
    """List the methods."""
    table = Table("method", "what")
    for name, about in methods().items():
        table.add_row(name, about)
    Terminal().print(table)


@cli.command("protocols")
def list_protocols() -> None:
    """List the protocols of students."""
    table = Table("protocol", "what")
    for name, about in protocols().items():
        table.add_row(name, about)
    Terminal().print(table)


@cli.command()
@click.argument("run_url", type=full_path, metavar="RUN")
@click.option(
    "--store", type=full_path, metavar="URL", help="Its store [default: where it was, or store beside the run folder]."
)
def report(run_url: str, store: str | None) -> None:
    """Write RUN's report and files again, from its store."""
    from wmdd.commands.distill import rewrite

    console = Terminal()
    result = rewrite(run_url, store)
    _print_result(console, result.metrics)
    console.print(f"report  {result.url}/report.html", soft_wrap=True)


for command in (compare, rank, export, submit, list_jobs, logs, stop, cluster):
    cli.add_command(command)


def _held_out(held_out: bool) -> str:
    return " (held out of the training images: the set has no validation split)" if held_out else ""


def _print_result(console: Terminal, metrics: dict[str, Any]) -> None:
    from wmdd.report.scores import left_out

    console.print(_table(metrics))
    if left_out(metrics):
        console.print(left_out(metrics), soft_wrap=True, highlight=False)


def _table(metrics: dict[str, Any]) -> Table:
    from wmdd.report.scores import protocols_of_run, score_rows, scored_on

    students = "" if "students" in metrics["missing"] else f"{protocols_of_run(metrics)}, "
    title = f"{metrics['subject']}; {students}{scored_on(metrics)}"
    table = Table("trained on", "images", "top-1, last", "top-1, best", title=title)
    for row in score_rows(metrics):
        table.add_row(row.name, row.images, row.last, row.best)
    return table


_KEPT = ". What was finished is kept: the same command goes on from there"
_LEFT = {  # by a command that cannot go on
    "cluster": ". What it had started has ended: the same command starts anew",
    "export": ". The same command writes what is missing",
    "report": ". The same command writes all files again",
    "submit": "; wmdd jobs lists what was submitted",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit 2 with one line for bad input, 1 for a failed run, 128 plus the signal if interrupted."""
    wait_passively()
    prepare_streams()
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands its own on, which this environment may lack
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of caches and fonts, which need no care
    if arguments is not None:
        sys.exit(_run(arguments))
    with interruptions.handled():
        sys.exit(_run(None))


def _run(arguments: Sequence[str] | None) -> int:
    command = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    kept = _KEPT if command in ("distill", "plan", "tune", "compare", "rank") else ""
    interrupted = f"wmdd: interrupted{kept or _LEFT.get(command, '')}"
    interruptions.announce(interrupted)
    try:
        os.getcwd()
    except FileNotFoundError:  # torch's libraries end the process there
        return _say("the current folder was removed: go to another one (cd ..), and give the command again", 2)
    try:
        with interruptions.before_errors(), command_line():
            cli.main(args=arguments, prog_name="wmdd", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message())
        return 2
    except click.ClickException as exc:
        message = answer(exc) or usage(exc)
        return _say(f"{message} ({_path(exc)} --help lists all options)", 2)
    except (ConfigError, DataError) as exc:
        return _say(str(exc), 2)
    except WmddError as exc:
        return _say(f"{exc}{kept}", 1)
    except (KeyboardInterrupt, click.Abort):
        interruptions.tell(interrupted)
        return interruptions.status()
    except OSError as exc:
        # Stores explain their own failures; a pipe whose reader has gone is click's and rich's.
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return _say(f"standard output cannot be written ({exc.strerror}){kept}", 1)
    return 0


def _path(exc: click.ClickException) -> str:
    context = getattr(exc, "ctx", None)
    return context.command_path if context else "wmdd"


def _say(message: str, status: int) -> int:
    click.echo(f"wmdd: {printable(message)}", file=sys.stderr)  # with err=True click may choose another encoding
    return status
