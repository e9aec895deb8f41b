"""The commands ``wmdd recipes``, ``methods`` and ``protocols``."""

from __future__ import annotations

import click
from rich.table import Table

from wmdd.config.methods import methods
from wmdd.config.protocols import protocols
from wmdd.config.recipes import recipe, recipes
from wmdd.process.terminal import Terminal


@click.command("recipes")
def list_recipes() -> None:
    """List the recipes."""
    table = Table("recipe", "what", "teacher", "px", "ipc")
    for name, about in recipes().items():
        config = recipe(name)
        table.add_row(name, about, config.pretrain.model, str(config.data.image_size), str(config.ipc))
    Terminal().print(table)


@click.command("methods")
def list_methods() -> None:
    """List the methods."""
    _print("method", methods())


@click.command("protocols")
def list_protocols() -> None:
    """List the protocols of students."""
    _print("protocol", protocols())


def _print(noun: str, abouts: dict[str, str]) -> None:
    table = Table(noun, "what")
    for row in abouts.items():
        table.add_row(*row)
    Terminal().print(table)
