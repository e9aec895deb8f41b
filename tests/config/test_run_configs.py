"""What words and files make of a configuration; that of a run is enough to run it again."""

from pathlib import Path

import pytest

from wmdd.cli.main import cli, main
from wmdd.cli.options import configure
from wmdd.config.distill import DistillConfig, override, to_yaml
from wmdd.config.recipes import recipe
from wmdd.config.resolve import is_exact
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


def test_protocol_follows_a_size_from_any_layer(subtests):
    Path("size.yaml").write_text("ipc: 50\n")
    for words in [("--ipc", "50"), ("--config", "size.yaml")]:
        with subtests.test(words=words):
            made = configured("imagenet-1k", "--protocol", "fadrm", *words)
            assert (made.ipc, made.evaluate.cosine_stretch) == (50, 1.0)
            assert is_exact(made)


def test_protocol_follows_students_and_set_of_options():
    made = configured("imagenette", "--protocol", "rded", "--evaluate.students", "mobilenet_v2")
    assert made.evaluate.lr == 2.5e-3
    assert is_exact(made)
    four = "resnet18,resnet50,mobilenet_v2,vit_tiny_patch16_224"
    several = configured("imagenet-1k", "--protocol", "rded", "--evaluate.students", four)
    assert [several.evaluate.of(name).lr for name in four.split(",")] == [1e-3, 1e-3, 2.5e-3, 1e-4]
    assert is_exact(several)
    subset = configured("imagenet-1k", "--protocol", "edc", "--data.subset", "imagenette")
    assert subset.relabel.epochs == 1000


def test_options_are_checked_with_their_protocol(subtests):
    Path("more.yaml").write_text("evaluate: {augment: randaugment}\n")
    cases = [
        ("--protocol", "hard", "--evaluate.augment", "randaugment"),
        ("--protocol", "cvdd", "--relabel.micro_batch", "4"),
        ("--protocol", "hard", "--config", "more.yaml"),
    ]
    for words in cases:
        with subtests.test(words=words):
            made = configured("imagenette", *words)
            assert (made.evaluate.augment, made.relabel.micro_batch) in (("randaugment", 0), ("none", 4))


def test_protocol_follows_the_set_of_a_file():
    Path("config.yaml").write_text(to_yaml(recipe("tiny-imagenet")))
    Path("set.yaml").write_text("recipe: tiny-imagenet\n")
    made = configured("--protocol", "fadrm", "--ipc", "1", "--config", "set.yaml")
    assert (made.recipe, made.relabel.epochs, made.relabel.batch_size) == ("tiny-imagenet", 1000, 16)
    # A whole configuration says itself how students are trained.
    with pytest.raises(ConfigError, match=r"--protocol fadrm: --config .* is of protocol wmdd, .*; leave one out"):
        configured("--protocol", "fadrm", "--config", "config.yaml")
    assert configured("--config", "config.yaml") == recipe("tiny-imagenet")


def test_options_over_a_protocol_make_it_inexact():
    made = configured("imagenet-1k", "--protocol", "cvdd", "--evaluate.lr", "0.002")
    assert (made.evaluate.lr, made.relabel.batch_size) == (0.002, 16)
    assert not is_exact(made)


def test_name_alone_is_no_way_to_choose_a_protocol():
    with pytest.raises(ConfigError, match=r"--evaluate\.protocol: names how students are trained .* use --protocol"):
        configured("digits", "--evaluate.protocol", "hard")


def test_list_of_names_can_be_emptied(subtests):
    for text in ["none", ""]:
        with subtests.test(text=text):
            assert configured("digits", "--relabel.teachers", text, "--evaluate.rates", text) == configured("digits")
