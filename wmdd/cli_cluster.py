"""The commands around clusters: ``wmdd submit``, ``jobs``, ``logs``, ``stop``, and ``wmdd cluster``."""

from __future__ import annotations

import sys
import time
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from wmdd.errors import ConfigError
from wmdd.progress import clock

ADDRESS = click.option(
    "--address",
    metavar="URL",
    help="The job server, http://HOST:8265 [default: RAY_API_SERVER_ADDRESS, or wmdd cluster].",
)


@click.command(context_settings={"ignore_unknown_options": True})
@ADDRESS
@click.option("--working-dir", metavar="DIR", default=".", show_default=True, help="Folder that travels with the job.")
@click.option("--requirements", metavar="FILE", help="Packages that every node installs for the job.")
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, help="Setting for the job; no credentials.")
@click.option("--job-id", metavar="ID", help="Name of the job; submitted again under it, it is refused.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the job is submitted.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- distill RECIPE [OPTIONS]")
@click.pass_context
def submit(
    context: click.Context,
    address: str | None,
    working_dir: str,
    requirements: str | None,
    variables: tuple[str, ...],
    job_id: str | None,
    no_wait: bool,
    words: tuple[str, ...],
) -> None:
    """Run a wmdd command as a job of a Ray cluster.

    Its log is followed, and its exit status becomes that of this command. Ctrl-C only stops following.

    \b
    wmdd submit --address http://HOST:8265 -- distill cifar10 --data.path s3://BUCKET/cifar10 --run s3://BUCKET/runs/a
    """
    from cluster.jobs import Jobs, runtime_environment

    environment = runtime_environment(working_dir, requirements, variables)
    _check_words(context, words)
    jobs = Jobs(address)
    found = jobs.submit(words, environment, job_id)
    console = Console(stderr=True)
    console.print(f"job {found} at {jobs.address}", highlight=False, soft_wrap=True)
    if no_wait:
        console.print(f"follow it: wmdd logs {found} --follow   end it: wmdd stop {found}", highlight=False)
        return
    try:
        jobs.follow(found, _write)
        status = jobs.exit_status(found)
    except KeyboardInterrupt:
        console.print(f"the job goes on; follow it: wmdd logs {found} --follow   end it: wmdd stop {found}")
        sys.exit(130)
    if status:
        console.print(f"job {found} ended with status {status}: {jobs.reason(found)[-200:]}", highlight=False)
    sys.exit(status)


@click.command("jobs")
@ADDRESS
def list_jobs(address: str | None) -> None:
    """List the jobs of a cluster."""
    from cluster.jobs import Jobs

    table = Table("job", "status", "took", "command")
    for name, status, begun, ended, command in Jobs(address).rows():
        table.add_row(name, status, clock((ended or time.time()) - begun) if begun else "", command)
    Console().print(table)


@click.command()
@ADDRESS
@click.option("--follow", is_flag=True, help="Go on until the job ends.")
@click.argument("job", metavar="ID")
def logs(address: str | None, follow: bool, job: str) -> None:
    """Print the log of job ID."""
    from cluster.jobs import Jobs

    jobs = Jobs(address)
    if follow:
        jobs.follow(job, _write)
    else:
        _write(jobs.log(job))


@click.command()
@ADDRESS
@click.argument("job", metavar="ID")
def stop(address: str | None, job: str) -> None:
    """End job ID. What it has finished is kept: submitted again, it goes on from there."""
    from cluster.jobs import Jobs

    click.echo(f"{job}: {Jobs(address).stop(job)}")


@click.group()
def cluster() -> None:
    """A trial cluster: several Ray nodes on this machine, as separate processes that listen on loopback only.

    \b
    wmdd cluster up --nodes 3 --cpus-per-node 1
    wmdd submit -- distill digits --run /tmp/digits
    wmdd cluster down
    """


@cluster.command()
@click.option(
    "--nodes", type=click.IntRange(min=1), default=2, show_default=True, help="Nodes that work, beside a head."
)
@click.option("--cpus-per-node", type=click.IntRange(min=1), default=1, show_default=True, help="CPUs of each node.")
@click.option(
    "--gpus-per-node", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs to claim, there or not."
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the head [default: a free one].")
@click.option(
    "--dashboard-port", type=click.IntRange(1, 65535), default=8265, show_default=True, help="Jobs and pages."
)
def up(nodes: int, cpus_per_node: int, gpus_per_node: int, port: int, dashboard_port: int) -> None:
    """Start the cluster, with a token that only you can read."""
    from cluster.local import Size
    from cluster.local import up as start

    begun = time.monotonic()
    with Console(stderr=True).status("starting the nodes"):
        start(Size(nodes, cpus_per_node, gpus_per_node, port, dashboard_port))
    click.echo(f"up after {clock(time.monotonic() - begun)}")
    _status()


@cluster.command()
def status() -> None:
    """Show the nodes, and how other tools reach them."""
    _status()


@cluster.command()
def down() -> None:
    """End the cluster's processes, and nothing else."""
    from cluster.local import down as end

    click.echo(f"ended {end()} processes")


def _status() -> None:
    from cluster.local import nodes_of
    from cluster.state import TrialCluster, settings

    found = TrialCluster.load()
    if found is None:
        raise ConfigError("wmdd cluster status: no cluster was started here; wmdd cluster up starts one")
    console = Console(soft_wrap=True, highlight=False)
    table = Table("node", "state", "process", "CPUs", "GPUs")
    for row in nodes_of(found):
        table.add_row(row.name, row.state, str(row.pid), f"{row.cpus:g}", f"{row.gpus:g}")
    console.print(table)
    console.print(f"drivers  wmdd distill RECIPE --address {found.address}")
    console.print(f"jobs     wmdd submit --address {found.dashboard} -- distill RECIPE --run URL")
    exports = " ".join(f"{name}={value}" for name, value in settings().items() if name.startswith("RAY_AUTH"))
    console.print(f"others   export {exports}    (the dashboard at {found.dashboard} asks for the token)")
    console.print("A node dies with its process: kill -9 PROCESS. wmdd cluster down ends all.")


def _check_words(context: click.Context, words: tuple[str, ...]) -> None:
    """Refuse what the job would refuse, and paths that would be lost with the job's folder."""
    root = context.find_root().command
    if not words or not isinstance(root, click.Group):
        raise ConfigError("wmdd submit: give a command after --, such as -- distill digits --run /shared/runs/digits")
    name, command, rest = root.resolve_command(context.find_root(), list(words))
    if name not in ("distill", "plan", "report") or command is None:
        raise ConfigError(f"wmdd submit -- {name}: only distill, plan and report run as jobs")
    params: dict[str, Any] = command.make_context(name, rest).params
    if name != "report":
        from wmdd.cli import configure

        configure(params)
    for option, key in (("--run", "run_url"), ("--store", "store"), ("--data.path", "data__path")):
        value = params.get(key)
        if value is None and (option != "--run" or name != "distill"):
            continue
        if value is None or not (value.startswith("/") or "://" in value or value.startswith("builtin:")):
            raise ConfigError(
                f"{option} {value or '(none)'}: a job's own folder is thrown away with the job; give a URL such as "
                "s3://BUCKET/runs/a, or an absolute path that all nodes share"
            )


def _write(text: str) -> None:
    click.echo(text, nl=False)


COMMANDS: tuple[click.Command, ...] = (submit, list_jobs, logs, stop, cluster)
