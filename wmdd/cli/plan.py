"""The command ``wmdd plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from wmdd.cli.fields import ConfigCommand
from wmdd.cli.options import UNTIL, common, configure
from wmdd.cli.types import OneOf
from wmdd.process.terminal import Terminal
from wmdd.text import rough_bytes, rough_time

if TYPE_CHECKING:
    from wmdd.commands.plan import PlannedRun
    from wmdd.engine.cost import Cost

_HELD_OUT = " (held out of the training images: the set has no validation split)"


@click.command(cls=ConfigCommand)
@common
@click.option("--executor", type=OneOf(["ray", "local"]), expose_value=False, hidden=True)  # as distill has it
@UNTIL
def plan(run_url: str | None, store: str | None, until: str | None, **params: Any) -> None:
    """Print what `distill` would run, what that costs, and what is in the store; run nothing but the data's index."""
    config = configure(params)
    from wmdd.commands.plan import plan as plan_run
    from wmdd.data.set_notes import describe_classes
    from wmdd.engine.console import show_index
    from wmdd.engine.events import Event

    console = Terminal()
    events: list[Event] = []
    planned = plan_run(
        config, run=run_url, store=store, listener=events.append, status=show_index(console), until=until
    )
    index = planned.plan.index
    sizes = f"{len(index.train)} training and {len(index.val)} validation images"
    console.print(f"{len(index.class_names)} classes, {sizes}{_HELD_OUT if index.val_held_out else ''}")
    for line in (describe_classes(index), *index.notes, *(event.text for event in events)):
        console.print(line, soft_wrap=True)
    cost = planned.cost
    console.print(_table(planned, cost, whole=not until))
    for line in cost.lines():
        console.print(line, soft_wrap=True)
    if cost.stages and planned.is_begun:
        whole = planned.whole_cost
        console.print(
            f"the whole run, from an empty store: about {rough_time(whole.elapsed_s)} on this CPU, "
            f"{rough_time(whole.gpu_s)} on one GPU, {rough_bytes(whole.stored_bytes)} of store",
            soft_wrap=True,
        )


def _table(planned: PlannedRun, cost: Cost, *, whole: bool) -> Table:
    """Return a row for each stage, with `whole` also for those without units."""
    table = Table("stage", "units", "in the store", "to run", "time on this CPU", "to store")
    for stage in (stage for stage, tasks in planned.plan.tasks.items() if tasks or whole):
        refs = planned.plan.refs(stage)
        missing = sum(ref in planned.missing for ref in refs)
        about = cost.stages.get(stage)
        estimates = (rough_time(about.elapsed_s), rough_bytes(about.stored_bytes)) if about else ("-", "-")
        table.add_row(stage, str(len(refs)), str(len(refs) - missing), str(missing), *estimates)
    return table
