"""The options of commands: which there are, which help shows, and with which defaults."""

import re
from pathlib import Path

import click

from wmdd.cli.fields import COMMON, ConfigCommand
from wmdd.cli.main import _run, cli
from wmdd.config.distill import DistillConfig, section_names
from wmdd.config.recipes import recipe

FLAGS = Path(__file__).with_name("flags.txt")
WITH_SECTIONS = ("distill", "plan", "compare", "rank", "tune")


def commands(group=cli, before=()):
    """All commands by their words, such as ``cluster up``."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name)), command


def flags():
    """A line for each flag, with the commands that have it."""
    by_flag = {}
    for name, command in commands():
        for param in command.params:
            for flag in param.opts if isinstance(param, click.Option) else ():
                by_flag.setdefault(flag, []).append(name)
    lines = (f"{flag}: {', '.join(names)}" for flag, names in sorted(by_flag.items()))
    return [line.replace(", ".join(WITH_SECTIONS), "all") for line in lines]


def test_flags_of_all_commands_are_those_of_the_list():
    # A flag is a promise: one that is added or goes is changed in the list too, and said in the commit.
    assert flags() == FLAGS.read_text(encoding="utf-8").splitlines()[1:]


def shown(capsys, *words):
    assert _run(list(words)) == 0
    return capsys.readouterr().out


def test_help_shows_common_options_and_help_all_all(capsys):
    known = {
        f"{section}.{name}"
        for section in section_names()
        for name in type(getattr(DistillConfig(), section)).model_fields
    }
    assert known > COMMON
    for command in WITH_SECTIONS:
        few, whole = shown(capsys, command, "--help"), shown(capsys, command, "--help-all")
        rows = [set(re.findall(r"(?m)^  --([a-z]+\.\w+) ", text)) & known for text in (few, whole)]
        assert rows == [COMMON, known], command
        assert few.endswith(f"wmdd {command} --help-all has all.\n")
        assert "--help-all has all" not in whole
    assert "--tune.samples INT" in few, "a search shows what is about searches"


def test_help_shows_the_values_of_the_recipe(subtests, capsys):
    cases = [("--help", "digits"), ("digits", "--help"), ("--seed", "3", "digits", "--help")]
    for words in cases:
        with subtests.test(words=words):
            default = f"[default: {recipe('digits').pretrain.model}]"
            assert default in " ".join(shown(capsys, "distill", *words).split())
            assert default not in " ".join(shown(capsys, "distill", "--help").split())
            assert default not in " ".join(shown(capsys, "distill", "cifar10", "--help").split())


def test_help_of_an_unknown_recipe_shows_the_defaults(capsys):
    assert shown(capsys, "distill", "nosuch", "--help") == shown(capsys, "distill", "--help")
    context = click.Context(cli.commands["distill"], info_name="wmdd distill", **cli.context_settings)
    assert f"{context.get_help()}\n" == shown(capsys, "distill", "--help")


def test_overview_lists_commands_in_the_order_of_use(capsys):
    listed = re.findall(r"(?m)^  ([a-z]+)  +[A-Z]", shown(capsys, "--help"))
    assert listed == list(cli.commands)
    assert listed[:2] == ["distill", "plan"]


def test_parameters_have_the_dotted_names_of_fields():
    for name, command in commands():
        assert isinstance(command, ConfigCommand) == (name in WITH_SECTIONS)
    params = cli.commands["tune"].make_context("tune", ["digits", "--recover.lr", "1", "--tune.space", "a=b"]).params
    assert (params["recover.lr"], params["tune.space"], params["tune.levels"]) == ("1", ("a=b",), ())


def test_mistake_names_the_help_that_lists_the_option(capsys):
    for words, told in {
        ("distill", "--nosuch"): "wmdd distill --help-all lists all options",
        ("report", "--nosuch"): "wmdd report --help lists all options",
        ("cluster", "up", "--nosuch"): "wmdd cluster up --help lists all options",
        ("nosuch",): "wmdd --help lists all options",
    }.items():
        assert _run(list(words)) == 2
        assert told in capsys.readouterr().err
