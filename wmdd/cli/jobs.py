"""The commands around jobs on a Ray cluster: ``wmdd submit``, ``jobs``, ``logs`` and ``stop``."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click
from rich.table import Column, Table

from wmdd.engine.progress import clock
from wmdd.errors import ConfigError, WmddError
from wmdd.process import interruptions
from wmdd.process.home import expand_home
from wmdd.process.terminal import Terminal, full_path

if TYPE_CHECKING:
    from cluster.jobs import Jobs
    from wmdd.config.distill import DistillConfig

ADDRESS = click.option(
    "--address",
    metavar="URL",
    help="The job server, http://HOST:8265 [default: RAY_API_SERVER_ADDRESS, or what wmdd cluster up started].",
)
NO_CLUSTER = "--address: no cluster runs here; give --address http://HOST:8265, or start one: wmdd cluster up"
AS_JOBS = ("compare", "rank", "distill", "tune", "plan", "report")


def _jobs(address: str | None) -> Jobs:
    try:
        from cluster.jobs import Jobs
    except ImportError as exc:
        raise WmddError("Ray with its dashboard is not installed; pip install 'wmdd[ray]'") from exc
    return Jobs(address)


@click.command(context_settings={"allow_interspersed_args": False})
@ADDRESS
@click.option(
    "--working-dir",
    type=full_path,
    metavar="DIR",
    default=".",
    show_default=True,
    help="Folder that travels with the job, without .git, .venv, runs, data and what .gitignore names.",
)
@click.option(
    "--requirements",
    type=full_path,
    metavar="FILE",
    help="Packages that every node installs for the job, in pip's form.",
)
@click.option(
    "--env",
    "variables",
    metavar="NAME=VALUE",
    multiple=True,
    help="Setting for the job; credentials belong to the environment of the cluster's nodes.",
)
@click.option("--submission-id", metavar="ID", help="The job's name [default: one is made up].")
@click.option("--no-wait", is_flag=True, help="Print the job's id and return.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- distill RECIPE [OPTIONS]")
@click.pass_context
def submit(
    context: click.Context,
    address: str | None,
    working_dir: str,
    requirements: str | None,
    variables: tuple[str, ...],
    submission_id: str | None,
    no_wait: bool,
    words: tuple[str, ...],
) -> None:
    """Run a wmdd command as a job of a Ray cluster.

    Its log is followed, and its exit status becomes that of this command. Ctrl-C only stops following. On the trial
    cluster of wmdd cluster up, paths are this machine's, and the run folder is where it would be without a job.

    \b
    wmdd submit --address http://HOST:8265 -- distill cifar10 \\
      --data.path s3://BUCKET/cifar10 --run s3://BUCKET/runs/cifar10
    """
    from cluster.runtime_env import runtime_environment

    environment = runtime_environment(working_dir, requirements, variables)
    with contextlib.chdir(working_dir):
        is_known = bool(address or os.environ.get("RAY_API_SERVER_ADDRESS"))
        words = _check_words(context, words, here=_is_trial(address), is_known=is_known)
    jobs = _jobs(address)
    job = jobs.submit(words, environment, submission_id)
    note = Terminal(stderr=True, soft_wrap=True)
    note.print(f"job {job} at {jobs.address}")
    hints = f"follow it: wmdd logs {job} --follow   end it: wmdd stop {job}"
    if no_wait:
        note.print(hints)
        click.echo(job)
        return
    interruptions.announce(f"wmdd: the job goes on; {hints}")
    try:
        jobs.follow(job, _write)
        status, reason = jobs.exit_status(job)
    except KeyboardInterrupt:
        interruptions.tell(f"wmdd: the job goes on; {hints}")
        sys.exit(interruptions.status())
    except WmddError as exc:
        raise WmddError(f"{exc}; the job may go on; {hints}") from exc
    if status:
        note.print(f"job {job} ended with status {status}" + (f": {reason}" if reason else ""))
    sys.exit(status)


def _is_trial(address: str | None) -> bool:
    """Whether jobs go to the trial cluster, whose nodes see this machine's files."""
    try:
        from cluster.state import adopt
    except ImportError:  # without psutil, which comes with Ray's dashboard
        return False
    return adopt(address or os.environ.get("RAY_API_SERVER_ADDRESS")) is not None


def _check_words(
    context: click.Context, words: tuple[str, ...], *, here: bool = False, is_known: bool = True
) -> tuple[str, ...]:
    """Refuse what the job would refuse, and paths that would be lost with the job's folder.

    Args:
        here: the job sees this machine's files.
        is_known: a cluster is named; without one that is what is missing, whatever the paths are.

    Returns:
        the words, which give the paths of this folder in full where the job can use them.
    """
    from cluster.runtime_env import check_travels
    from wmdd.cli.compare import numbers
    from wmdd.cli.options import configure
    from wmdd.storage.filesystem import refuse_secrets

    words = tuple(_expanded(word) for word in words)  # on the job's node ~ may be another folder
    root = context.find_root()
    if not words or not isinstance(root.command, click.Group):
        raise ConfigError("wmdd submit: give a command after --, such as -- distill digits --run /shared/runs/digits")
    name, command, rest = root.command.resolve_command(root, list(words))
    if name not in AS_JOBS or command is None:
        raise ConfigError(f"wmdd submit -- {words[0]}: only {', '.join(AS_JOBS)} run as jobs")
    params: dict[str, Any] = command.make_context(name, rest, parent=root).params
    places = {"--run": params["run_url"], "--store": params.get("store")}
    if name == "report":
        places = {"RUN": params["run_url"], "--store": params["store"]}
    elif name == "tune" and params["resume"]:
        places = {"--resume": params["resume"]}
    else:
        sizes = numbers(params["ipc"]) if name == "compare" else []
        config = configure(params | {"ipc": sizes[0] if sizes else None} if name == "compare" else params)
        if here and places["--run"] is None:
            places["--run"] = _default(name, config, params)
        places |= {"--data.path": config.data.path, "--pretrain.checkpoint": _file(config.pretrain.checkpoint)}
        places |= {"--config": params["file"]} if here else {}
        if not here and params["file"] is not None:
            check_travels(params["file"])
    needed = () if name == "report" or (name == "plan" and places.get("--store")) else ("--run",)
    for option, place in places.items():
        if place is None and option not in needed:
            continue
        refuse_secrets(place or "")
        if here and place and not _stays(place):
            full = os.path.abspath(place)
            named = option.startswith("--")  # the last of equal options counts
            words = (*words, option, full) if named else tuple(full if word == place else word for word in words)
        elif place is None or not _stays(place):
            if not is_known:
                raise ConfigError(NO_CLUSTER)
            value = "(not given)" if place is None else place
            raise ConfigError(
                f"{option} {value}: lies in the job's own folder, which is thrown away with the job; give a URL such "
                "as s3://BUCKET/runs/a, or an absolute path that all nodes share"
            )
    return words


def _expanded(word: str) -> str:
    option, equals, value = word.partition("=")
    return f"{option}={expand_home(value)}" if equals and option.startswith("--") else expand_home(word)


def _default(command: str, config: DistillConfig, params: dict[str, Any]) -> str:
    """Name the run folder that a command takes without --run."""
    from wmdd.cli.compare import read_changes
    from wmdd.cli.rank import read_rates
    from wmdd.commands.rank import own_options
    from wmdd.engine.run_folder import choose_run, default_run
    from wmdd.engine.run_names import located

    if command in ("distill", "plan"):
        return choose_run(None, located(config))[0]
    more: dict[str, Any] = read_changes(params["settings"], config) if command == "compare" else {}
    if command == "rank":
        more = own_options(read_rates(params["rates"]), params["weight"])
    return default_run(located(config), command, more)


def _stays(place: str) -> bool:
    return place.startswith("/") or "://" in place or place.startswith(("builtin:", "torchvision:"))


def _file(weights: str | None) -> str | None:
    from wmdd.models.weight_files import is_file

    return weights if weights is not None and is_file(weights) else None


@click.command("jobs")
@ADDRESS
def list_jobs(address: str | None) -> None:
    """List the jobs of a cluster, newest first."""
    table = Table(
        *(Column(name, no_wrap=True) for name in ("job", "status", "took")), Column("command", overflow="fold")
    )
    for name, status, begun, ended, command in _jobs(address).rows():
        table.add_row(name, status, clock((ended or time.time()) - begun) if begun else "", command)
    Terminal(soft_wrap=sys.stdout is None or not sys.stdout.isatty()).print(table)


@click.command()
@ADDRESS
@click.option("--follow", is_flag=True, help="Go on until the job ends; Ctrl-C only stops following.")
@click.argument("job", metavar="ID")
def logs(address: str | None, follow: bool, job: str) -> None:
    """Print the log of job ID; wmdd jobs lists the ids."""
    jobs = _jobs(address)
    if not follow:
        _write(jobs.log(job))
        return
    going_on = f"wmdd: follows no more; wmdd stop {job} would end the job"
    interruptions.announce(going_on)
    try:
        jobs.follow(job, _write)
    except KeyboardInterrupt:
        interruptions.tell(going_on)
        sys.exit(interruptions.status())


@click.command()
@ADDRESS
@click.argument("job", metavar="ID")
def stop(address: str | None, job: str) -> None:
    """End job ID. What it has finished is kept: submitted again, it goes on from there.

    A job that is still PENDING cannot be stopped: Ray ends it by itself when it does not start.
    """
    click.echo(f"{job}: {_jobs(address).stop(job)}")


def _write(text: str) -> None:
    click.echo(text, nl=False)
