"""The command ``wmdd export``."""

from __future__ import annotations

import click

from wmdd.cli.types import OneOf
from wmdd.process.terminal import full_path
from wmdd.text import printable


@click.command()
@click.argument("run_url", type=full_path, metavar="RUN")
@click.option(
    "--format",
    "kind",
    type=OneOf(["folder", "ddranking"]),
    default="folder",
    help="folder: PNG files by class, tiles enlarged; ddranking: images, teacher and settings for ddranking 0.2.0.",
)
@click.option(
    "--to",
    "target",
    type=full_path,
    metavar="URL",
    help="Folder to write, new or empty [default: RUN/export, or RUN/export-ddranking].",
)
@click.option("--dataset", metavar="NAME", help="DD-Ranking's name of the real set [default: by the recipe].")
def export(run_url: str, kind: str, target: str | None, dataset: str | None) -> None:
    """Write RUN's images for other programs.

    Labels stay: sorted folder names are in the order of class ids, and classes.json has id, name and folder of each.
    """
    from wmdd.commands.export import export as write

    click.echo(printable(write(run_url, kind, target.rstrip("/") if target else None, dataset)))
