"""The command ``wmdd rank``."""

from __future__ import annotations

from typing import Any

import click

from wmdd.cli.fields import ConfigCommand
from wmdd.cli.options import ADDRESS, EXECUTOR, SEEDS, check_cluster, common, configure
from wmdd.cli.progress import shown_on
from wmdd.cli.types import OneOrMore, Value
from wmdd.config.base import Positive
from wmdd.process.terminal import Terminal


@click.command(cls=ConfigCommand)
@common
@click.option(
    "--rates",
    type=Value(OneOrMore[Positive]),
    default="0.001,0.005,0.01,0.05,0.1",
    metavar="FLOAT,...",
    help="Learning rates that hard labels and random images may choose from.",
)
@SEEDS
@click.option("--weight", type=Value(float), metavar="FLOAT", default=0.5, help="Of the first part of each score.")
@EXECUTOR
@ADDRESS
def rank(
    run_url: str | None, store: str | None, executor: str, rates: tuple[float, ...], weight: float, **params: Any
) -> None:
    """Score RECIPE's images fairly: DD-Ranking's label-robust and augmentation-robust scores.

    Trains the students that these need, besides the recipe's; what the store holds already is not trained again.
    """
    config = configure(params)
    check_cluster(executor, config, params)
    from wmdd.commands.rank import rank as run
    from wmdd.report.ranking import columns

    console = Terminal()
    with shown_on(console) as reports:
        result = run(config, rates=rates, weight=weight, run=run_url, store=store, executor=executor, **reports)
    for table in columns(result.facts):
        console.print(table)
    console.print(f"in {result.url}: ranking.json, ranking.md", soft_wrap=True)
