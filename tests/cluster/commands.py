"""Checks a command line without running it, by the very parsers that would read it."""

import re
import shlex
from pathlib import Path

import click

from wmdd.cli.main import cli
from wmdd.cli.options import configure

ROOT = Path(__file__).parents[2]
READMES = sorted((ROOT / "cluster").rglob("README.md"))


def check_wmdd(words):
    """Parse the words after `wmdd`; raises click's or wmdd's error where they are wrong."""
    context, command, name, rest = click.Context(cli, info_name="wmdd"), cli, "wmdd", list(words)
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, rest)
    params = command.make_context(name, rest, parent=context).params
    if name in ("distill", "plan"):
        configure(params)
    if name == "submit":
        check_wmdd(params["words"])
    return params


def check_ray(words):
    """Parse the words after `ray`."""
    from ray.scripts.scripts import cli as ray

    command, rest = ray, list(words)
    while isinstance(command, click.Group):
        name, *rest = rest
        command = command.commands[name]
    command.make_context(name, rest)


def shell_commands(path):
    """The commands in a README's shell blocks, one string each."""
    for block in re.findall(r"```sh\n(.*?)```", path.read_text(), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip()


def words_of(command):
    """The words of a command without comments, or the settings before it."""
    words = shlex.split(command, comments=True)
    while words and re.match(r"\w+=", words[0]):
        words.pop(0)
    return words
