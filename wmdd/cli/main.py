"""The command `wmdd`: its subcommands, and how the process is prepared for them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from wmdd.cli.cluster import cluster
from wmdd.cli.compare import compare
from wmdd.cli.distill import distill
from wmdd.cli.errors import exit_status
from wmdd.cli.export import export
from wmdd.cli.jobs import list_jobs, logs, stop, submit
from wmdd.cli.lists import list_methods, list_protocols, list_recipes
from wmdd.cli.plan import plan
from wmdd.cli.rank import rank
from wmdd.cli.report import report
from wmdd.cli.tune import tune
from wmdd.cpus import set_environment
from wmdd.process import interruptions
from wmdd.process.terminal import LineFormatter, prepare_streams


class _Commands(click.Group):
    """Lists the commands as they were added, and leaves the line of an interruption to the command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as exc:
            if sys.stderr.isatty():
                click.echo(err=True)  # after the terminal's own ^C
            raise click.Abort from exc  # click would write an empty line before it


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="wmdd")
def cli() -> None:
    """Distil an image data set into a few synthetic images per class, with the Wasserstein metric."""


for command in (distill, plan, report, export, compare, rank, tune):
    cli.add_command(command)
for command in (list_recipes, list_methods, list_protocols, submit, list_jobs, logs, stop, cluster):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, and exit with its status."""
    set_environment()
    prepare_streams()
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands its own on, which this environment may lack
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its warnings are about caches and fonts
    if arguments is not None:
        sys.exit(_run(arguments))
    with interruptions.handled():
        sys.exit(_run(sys.argv[1:]))


def _run(arguments: Sequence[str]) -> int:
    name = next(iter(arguments), "")
    return exit_status(name, lambda: cli.main(args=arguments, prog_name="wmdd", standalone_mode=False))
