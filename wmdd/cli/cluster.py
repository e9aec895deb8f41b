"""The command ``wmdd cluster``: a trial cluster on this machine."""

from __future__ import annotations

import shlex
import time

import click
from rich.table import Table

from wmdd.cli.errors import needs_extra
from wmdd.cli.types import WholeFrom
from wmdd.engine.progress import clock
from wmdd.errors import ConfigError
from wmdd.process.terminal import Terminal

DASHBOARD = ("ray", "Ray with its dashboard")  # which brings psutil


@click.group()
def cluster() -> None:
    """A trial cluster: several Ray nodes on this machine, to try things out.

    Each node is a separate set of processes, so that one can be killed like a machine. All listen on loopback only
    and ask for a token. One cluster runs at a time; WMDD_STATE=FOLDER keeps a second one.

    \b
    wmdd cluster up --nodes 3 --cpus-per-node 1
    wmdd submit -- distill digits --run ~/runs/digits
    wmdd cluster status
    wmdd cluster down
    """


@cluster.command()
@click.option(
    "--nodes", type=WholeFrom(1), default=2, help="Nodes that work; a head without CPUs has dashboard and job server."
)
@click.option(
    "--cpus-per-node", type=WholeFrom(1), default=1, help="CPUs that each node claims; they share this machine's."
)
@click.option(
    "--gpus-per-node",
    type=WholeFrom(0),
    default=0,
    help="GPUs that each node claims, there or not: for trying how work is placed, not for computing on.",
)
@click.option("--port", type=WholeFrom(0, 65535), default=0, help="Of the head (0: a free one).")
@click.option("--dashboard-port", type=WholeFrom(1, 65535), default=8265, help="Of the dashboard and the job server.")
def up(nodes: int, cpus_per_node: int, gpus_per_node: int, port: int, dashboard_port: int) -> None:
    """Start the cluster, with a token that only you can read.

    \b
    wmdd cluster up --nodes 3 --cpus-per-node 2
    """
    with needs_extra(*DASHBOARD):
        from cluster.supervisor import Size
        from cluster.trial import up as start

    begun = time.monotonic()
    with Terminal(stderr=True).status("starting the nodes", spinner="line"):
        start(Size(nodes, cpus_per_node, gpus_per_node, port, dashboard_port))
    click.echo(f"up after {clock(time.monotonic() - begun)}")
    _status()


@cluster.command()
def status() -> None:
    """Show the nodes and what is in use, and how other tools reach them."""
    _status()


@cluster.command()
def down() -> None:
    """End the cluster's processes, and nothing else; jobs that run on it end too."""
    with needs_extra(*DASHBOARD):
        from cluster.trial import down as end

    click.echo(f"ended {end()} processes")


def _status() -> None:
    with needs_extra(*DASHBOARD):
        from cluster.state import TrialCluster, settings
        from cluster.trial import rows_of

    trial = TrialCluster.load()
    if trial is None:
        raise ConfigError("wmdd cluster status: no cluster was started here; wmdd cluster up starts one")
    if not trial.nodes:
        click.echo("The cluster is being started, or its start was cut off; wmdd cluster down clears what is left.")
        return
    table = Table("node", "state", "process", "CPUs used", "GPUs used")
    for name, state, pid, cpus, gpus in rows_of(trial):
        table.add_row(name, state, str(pid), _used(cpus), _used(gpus))
    console = Terminal(soft_wrap=True)
    console.print(table)
    if not trial.runs:
        console.print("The head is gone, and the cluster with it: wmdd cluster down clears what is left.")
        return
    exports = " ".join(
        f"{name}={shlex.quote(value)}" for name, value in settings().items() if name.startswith("RAY_AUTH")
    )
    console.print(f"runs       wmdd distill RECIPE --address {trial.address}")
    console.print(f"jobs       wmdd submit --address {trial.dashboard} -- distill RECIPE --run FOLDER")
    console.print(f"dashboard  {trial.dashboard} (asks for the token)")
    console.print(f"others     export {exports}")
    console.print("A node ends with its process, as when a machine is lost: kill -9 PROCESS.")


def _used(share: tuple[float, float] | None) -> str:
    return "?" if share is None else f"{share[0]:g} of {share[1]:g}"
