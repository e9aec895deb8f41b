"""The commands around jobs on a Ray cluster: ``wmdd submit``, ``jobs``, ``logs`` and ``stop``."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from rich.table import Column, Table

from wmdd.cli.cluster import DASHBOARD
from wmdd.cli.errors import needs_extra
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
AS_JOBS = ("compare", "rank", "distill", "tune", "plan", "report")


_write = functools.partial(click.echo, nl=False)


def _jobs(address: str | None) -> Jobs:
    with needs_extra(*DASHBOARD):
        from cluster.jobs import Jobs
    return Jobs(address)


@click.command(context_settings={"allow_interspersed_args": False})
@ADDRESS
@click.option(
    "--working-dir",
    type=full_path,
    metavar="DIR",
    default=".",
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
    try:
        with _ending_with(f"wmdd: the job goes on; {hints}"):
            jobs.follow(job, _write)
            status, reason = jobs.exit_status(job)
    except WmddError as exc:
        raise WmddError(f"{exc}; the job may go on; {hints}") from exc
    if status:
        note.print(f"job {job} ended with status {status}" + (f": {reason}" if reason else ""))
    sys.exit(status)


@contextlib.contextmanager
def _ending_with(line: str) -> Iterator[None]:
    """End this command with a line, and not the job, if an interruption ends the block."""
    interruptions.announce(line)
    try:
        yield
    except KeyboardInterrupt:
        interruptions.tell(line)
        sys.exit(interruptions.status())


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
    """Return a job's words, paths in full if it runs `here`; refuse what it would refuse, and paths that it would lose.

    If no cluster `is_known`, submitting says what is missing, whatever the paths are.
    """
    from wmdd.storage.filesystem import refuse_secrets

    words = tuple(map(_expanded, words))  # on the job's node ~ may be another folder
    name, params = _parse(context, words)
    for option, path in _paths(name, params, here=here).items():
        refuse_secrets(path)
        if path.startswith(("/", "builtin:", "torchvision:")) or "://" in path:
            continue
        if here:
            words = _with_full_path(words, option, path)
        elif is_known:
            raise ConfigError(
                f"{option} {path or '(not given)'}: lies in the job's own folder, which is thrown away with the job; "
                "give a URL such as s3://BUCKET/runs/a, or an absolute path that all nodes share"
            )
    return words


def _expanded(word: str) -> str:
    option, equals, value = word.partition("=")
    return f"{option}={expand_home(value)}" if equals and option.startswith("--") else expand_home(word)


def _with_full_path(words: tuple[str, ...], option: str, path: str) -> tuple[str, ...]:
    full = os.path.abspath(path)
    if option.startswith("--"):
        return (*words, option, full)  # the last of equal options counts
    return tuple(full if word == path else word for word in words)


def _parse(context: click.Context, words: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Return the name and the parameters of a command that can be a job."""
    root = context.find_root()
    if not words or not isinstance(root.command, click.Group):
        raise ConfigError("wmdd submit: give a command after --, such as -- distill digits --run /shared/runs/digits")
    name, command, rest = root.command.resolve_command(root, list(words))
    if name not in AS_JOBS or command is None:
        raise ConfigError(f"wmdd submit -- {words[0]}: only {', '.join(AS_JOBS)} run as jobs")
    return name, command.make_context(name, rest, parent=root).params


def _paths(name: str, params: dict[str, Any], *, here: bool) -> dict[str, str]:
    """Return the paths and URLs that a command uses, by option; an empty one for a run folder that must be named."""
    from cluster.runtime_env import check_travels
    from wmdd.cli.options import configure
    from wmdd.models.names import is_file

    run, store = params["run_url"], params["store"]
    if name == "report":
        return {"RUN": run} | ({"--store": store} if store else {})
    if name == "tune" and params["resume"]:
        return {"--resume": params["resume"]}
    config = configure(params)
    if here and run is None:
        run = _default_run(name, config, params)
    checkpoint = config.pretrain.checkpoint
    paths = {
        "--run": run or (None if name == "plan" and store else ""),
        "--store": store,
        "--data.path": config.data.path,
        "--pretrain.checkpoint": checkpoint if checkpoint and is_file(checkpoint) else None,
    }
    if here:
        paths["--config"] = params["file"]
    elif params["file"] is not None:
        check_travels(params["file"])
    return {option: path for option, path in paths.items() if path is not None}


def _default_run(command: str, config: DistillConfig, params: dict[str, Any]) -> str:
    """Return the run folder that a command takes without --run."""
    from wmdd.cli.compare import read_changes
    from wmdd.commands.rank import own_options
    from wmdd.engine.run_folder import choose_run, default_run
    from wmdd.engine.run_names import located

    if command in ("distill", "plan"):
        return choose_run(None, located(config))[0]
    more: dict[str, Any] = read_changes(params["settings"], config) if command == "compare" else {}
    if command == "rank":
        more = own_options(params["rates"], params["weight"])
    return default_run(located(config), command, more)


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
    with _ending_with(f"wmdd: follows no more; wmdd stop {job} would end the job"):
        jobs.follow(job, _write)


@click.command()
@ADDRESS
@click.argument("job", metavar="ID")
def stop(address: str | None, job: str) -> None:
    """End job ID. What it has finished is kept: submitted again, it goes on from there.

    A job that is still PENDING cannot be stopped: Ray ends it by itself when it does not start.
    """
    click.echo(f"{job}: {_jobs(address).stop(job)}")
