"""The command ``wmdd plan``."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from wmdd.cli.fields import ConfigCommand
from wmdd.cli.options import UNTIL, common, configure
from wmdd.cli.types import OneOf
from wmdd.process.terminal import Terminal

_HELD_OUT = " (held out of the training images: the set has no validation split)"


@click.command(cls=ConfigCommand)
@common
@click.option("--executor", type=OneOf(["ray", "local"]), expose_value=False, hidden=True)  # as distill has it
@UNTIL
def plan(run_url: str | None, store: str | None, until: str | None, **params: Any) -> None:
    """Print what `distill` would run and what is in the store already; run nothing but the data's index."""
    config = configure(params)
    from wmdd.data.set_notes import describe_classes
    from wmdd.engine.console import show_index
    from wmdd.engine.events import Event
    from wmdd.engine.plan import make_plan
    from wmdd.engine.session import Session
    from wmdd.engine.until import cut

    console = Terminal()
    events: list[Event] = []
    artifacts = Session("distill", config, run_url, store, events.append).store
    planned = cut(make_plan(config, artifacts, show_index(console)), until)
    index = planned.index
    sizes = f"{len(index.train)} training and {len(index.val)} validation images"
    console.print(f"{len(index.class_names)} classes, {sizes}{_HELD_OUT if index.val_held_out else ''}")
    for line in (describe_classes(index), *index.notes, *(event.text for event in events)):
        console.print(line, soft_wrap=True)
    table = Table("stage", "units", "in the store", "to run", "first units to run")
    for stage in (stage for stage in planned.tasks if planned.tasks[stage] or not until):
        refs = planned.refs(stage)
        missing = [ref.unit for ref in refs if ref not in artifacts]
        units = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        table.add_row(stage, str(len(refs)), str(len(refs) - len(missing)), str(len(missing)), units)
    console.print(table)
