"""The command ``wmdd distill``."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from wmdd.cli.fields import ConfigCommand
from wmdd.cli.options import ADDRESS, EXECUTOR, UNTIL, check_cluster, common, configure
from wmdd.cli.progress import shown_on
from wmdd.process.terminal import Terminal


@click.command(cls=ConfigCommand)
@common
@EXECUTOR
@ADDRESS
@UNTIL
def distill(run_url: str | None, store: str | None, executor: str, until: str | None, **params: Any) -> None:
    """Distil RECIPE's images, train students on the result, and write a report.

    Started again after a crash, or with other options, it computes only what is missing.
    """
    config = configure(params)
    check_cluster(executor, config, params)
    from wmdd.commands.distill import distill as run  # takes seconds, which a mistyped option does not wait for

    console = Terminal()
    with shown_on(console) as reports:
        result = run(config, run=run_url, store=store, executor=executor, until=until, **reports)
    print_scores(console, result.metrics)
    if "images" not in result.metrics["missing"]:
        console.print(f"images  {result.url}/images/   picture {result.url}/images.png", soft_wrap=True)
    console.print(f"report  {result.url}/report.html", soft_wrap=True)


def print_scores(console: Terminal, metrics: dict[str, Any]) -> None:
    """Print the scores of a run as a table, and what it left out."""
    from wmdd.report.costs import cost_line
    from wmdd.report.gains import gain_lines
    from wmdd.report.scores import left_out, protocols_of_run, score_rows, scored_on
    from wmdd.report.worth import curve_lines, worth_lines

    students = "" if "students" in metrics["missing"] else f"{protocols_of_run(metrics)}, "
    title = f"{metrics['subject']}; {students}{scored_on(metrics)}"
    table = Table("trained on", "images", "top-1, last", "top-1, best", title=title)
    for row in score_rows(metrics):
        table.add_row(row.name, row.images, row.last, row.best)
    console.print(table)
    for line in (*gain_lines(metrics), *worth_lines(metrics), *curve_lines(metrics)):
        console.print(line, soft_wrap=True, highlight=False)
    if line := cost_line(metrics):
        console.print(line, soft_wrap=True, highlight=False)
    if left_out(metrics):
        console.print(left_out(metrics), soft_wrap=True, highlight=False)
