"""The commands ``wmdd recipes``, ``methods`` and ``protocols``."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich.table import Table

from wmdd.config.methods import methods
from wmdd.config.protocols import protocols
from wmdd.config.recipes import recipe, recipes
from wmdd.process.terminal import Terminal


@click.command("recipes")
def list_recipes() -> None:
    """List the recipes."""
    rows = []
    for name, about in recipes().items():
        config = recipe(name)
        rows.append((name, about, config.pretrain.model, str(config.data.image_size), str(config.barycenter.ipc)))
    _print(("recipe", "what", "teacher", "px", "ipc"), rows)


@click.command("methods")
def list_methods() -> None:
    """List the methods."""
    _print(("method", "what"), methods().items())


@click.command("protocols")
def list_protocols() -> None:
    """List the protocols of students."""
    _print(("protocol", "what"), protocols().items())


def _print(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    Terminal().print(table)
