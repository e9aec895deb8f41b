"""A run's configuration is enough to run it again: it names recipe, method and protocol."""

from pathlib import Path

import pytest

from wmdd.cli.main import cli, main
from wmdd.cli.options import configure
from wmdd.config.distill import DistillConfig, override, to_yaml
from wmdd.config.recipes import recipe
from wmdd.errors import ConfigError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(*words):
    command = cli.commands["distill"]
    return configure(command.make_context("distill", list(words)).params)


def test_config_of_a_run_is_enough_to_run_it_again(subtests):
    cases = [
        ("digits", "--ipc", "3"),
        ("digits", "--method", "cda", "--recover.curriculum_share", "0.5"),
        ("cifar10", "--protocol", "edc", "--evaluate.lr", "0.01", "--data.path", "s3://b/x"),
        ("digits", "--debug"),
    ]
    for words in cases:
        with subtests.test(words=words):
            config = configured(*words)
            Path("config.yaml").write_text(to_yaml(config))
            assert configured("--config", "config.yaml") == config
            assert configured(words[0], "--config", "config.yaml") == config
            assert configured("--config", "config.yaml", "--seed", "7") == override(config, {"seed": 7})


def test_configuration_made_in_python_needs_no_recipe():
    config = override(DistillConfig(recipe="mine"), {"data.path": "builtin:digits"})
    Path("config.yaml").write_text(to_yaml(config))
    assert configured("--config", "config.yaml") == config


def test_file_without_recipe_lies_over_the_given_one():
    Path("part.yaml").write_text("recipe: custom\nseed: 3\n")
    assert configured("digits", "--config", "part.yaml").seed == 3
    Path("part.yaml").write_text("recipe: none-such\n")
    with pytest.raises(ConfigError, match=r"^recipe nope: no such recipe; choose from digits, "):
        configured("nope", "--config", "part.yaml")


def test_partial_file_gets_options_of_names_in_it():
    Path("part.yaml").write_text("recipe: digits\nmethod: sre2l\nevaluate: {protocol: rded}\nrecover: {lr: 0.7}\n")
    made = configured("--config", "part.yaml")
    assert made == configured("digits", "--method", "sre2l", "--protocol", "rded", "--recover.lr", "0.7")


def test_file_and_words_that_disagree_are_answered(subtests, capsys):
    cases = [
        ("recipe: digits", ("cifar10",), "--config c.yaml: is of recipe digits, not cifar10; leave RECIPE cifar10 out"),
        ("recipe: digits-debug", ("cifar10",), "--config c.yaml: is of recipe digits, not cifar10"),
        ("seed: 3", (), "--config c.yaml: names no recipe; give a RECIPE"),
        ("recipe: mine", (), "--config c.yaml: recipe mine: no such recipe; choose from digits, "),
        (
            "{recipe: cifar-10, seed: 3}",
            ("cifar10",),
            "--config c.yaml: recipe cifar-10: no such recipe; choose from",
        ),
        (to_yaml(DistillConfig(recipe="mine")), ("cifar10",), "--config c.yaml: is of recipe mine, not cifar10; leave"),
        ("{recipe: digits, method: sre2l}", ("--method", "cda"), "--method cda: --config c.yaml is of method sre2l"),
        ("{recipe: digits, evaluate: {protocol: edc}}", ("--protocol", "cda"), "--protocol cda: --config c.yaml is of"),
        ("{recipe: digits, method: dm}", (), "--config c.yaml: method='dm'"),
        ("recipe: [", (), "--config c.yaml: not YAML: line 1: "),
    ]
    for text, words, line in cases:
        with subtests.test(text=text):
            Path("c.yaml").write_text(text)
            for command in ("distill", "plan", "compare", "rank", "tune"):
                if command == "compare" and "--method" in words:
                    continue
                with pytest.raises(SystemExit) as caught:
                    main([command, *words, "--config", "c.yaml"])
                said = capsys.readouterr().err
                assert (caught.value.code, said.count("\n")) == (2, 1), said
                assert said.startswith(f"wmdd: {line}")
            assert not Path("runs").exists()


def test_command_without_recipe_and_file_asks_for_one(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["distill"])
    assert caught.value.code == 2
    assert "RECIPE: give one (digits, cifar10" in capsys.readouterr().err


def test_file_is_read_from_a_url(place):
    Path("config.yaml").write_text(to_yaml(recipe("digits")))
    assert configured("--config", f"file://{place}/config.yaml") == recipe("digits")
    with pytest.raises(ConfigError, match=f"--config file://{place}/gone.yaml: "):
        configured("--config", f"file://{place}/gone.yaml")
