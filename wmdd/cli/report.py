"""The command ``wmdd report``."""

from __future__ import annotations

import click

from wmdd.cli.distill import print_scores
from wmdd.process.terminal import Terminal, full_path


@click.command()
@click.argument("run_url", type=full_path, metavar="RUN")
@click.option(
    "--store", type=full_path, metavar="URL", help="Its store [default: where it was, or store next to the run folder]."
)
def report(run_url: str, store: str | None) -> None:
    """Write RUN's report and files again, from its store."""
    from wmdd.commands.distill import rewrite

    console = Terminal()
    result = rewrite(run_url, store)
    print_scores(console, result.metrics)
    console.print(f"report  {result.url}/report.html", soft_wrap=True)
