"""Layers over each other: recipe, method, protocol, file and options."""

import pytest

from wmdd.config.distill import changes_in, override, to_yaml
from wmdd.config.recipes import recipe
from wmdd.config.resolve import ConfigFile, base_of, resolve, with_method, with_protocol
from wmdd.errors import ConfigError


def file(text):
    return ConfigFile("c.yaml", changes_in(text))


def test_later_layers_win_over_earlier_ones():
    text = "recover: {lr: 0.2, ce_weight: 0.3}\nrelabel: {epochs: 5}\n"
    options = {"recover.lr": "0.1", "ipc": 3}
    config = resolve("cifar10", "sre2l", "rded", file(text), options, debug=True)
    assert (config.recipe, config.method, config.evaluate.protocol) == ("cifar10-debug", "sre2l", "rded")
    assert (config.recover.lr, config.recover.ce_weight, config.recover.bn_target) == (0.1, 0.3, "global")
    assert (config.relabel.epochs, config.ipc, config.recover.iterations) == (2, 3, 2)
    assert config.relabel.batch_size == with_protocol(override(recipe("cifar10"), options), "rded").relabel.batch_size


def test_configuration_keeps_what_no_layer_names():
    config = override(with_method(recipe("digits"), "cda"), {"seed": 3})
    assert resolve(config) == config
    assert resolve(config, "wmdd").method == "wmdd"
    assert resolve(config, options={"recover.lr": 1}) == override(config, {"recover.lr": 1})


def test_file_names_recipe_method_and_protocol():
    text = "recipe: digits\nmethod: sre2l\nevaluate.protocol: rded\n"
    assert resolve(None, file=file(text)) == resolve("digits", "sre2l", "rded")
    assert base_of(None, None, file(text)) == with_method(recipe("digits"), "sre2l")
    assert not file(text).is_whole
    assert file(to_yaml(recipe("digits"))).is_whole


def test_mistakes_name_their_options_or_their_file():
    with pytest.raises(ConfigError) as caught:
        resolve("digits", options={"recover.lr": "x", "recover.flip": "maybe"})
    assert [mistake[:2] for mistake in caught.value.mistakes] == [("recover.lr", "'x'"), ("recover.flip", "'maybe'")]
    with pytest.raises(ConfigError, match=r"^--config c\.yaml: recover\.lr='x': ") as caught:
        resolve("digits", file=file("recover: {lr: x}"))
    assert not caught.value.mistakes


def test_unknown_name_is_answered_with_the_nearest(subtests):
    cases = [
        (("cifar",), r"^recipe cifar: no such recipe; choose from digits, .*; did you mean cifar10 or "),
        (("digits", "sre2"), r"^method sre2: no such method; choose from wmdd, .*; did you mean sre2l\?$"),
        (("digits", None, "dm"), "^protocol dm: no such protocol; choose from wmdd, [a-z0-9, ]+$"),
        (
            ("digits", None, None, file("recipe: cifar-10")),
            r"^--config c\.yaml: recipe cifar-10: no such .*; or leave that line out, RECIPE digits is given$",
        ),
    ]
    for layers, line in cases:
        with subtests.test(layers=layers), pytest.raises(ConfigError, match=line):
            resolve(*layers)


def test_first_look_takes_a_fifth_of_the_label_epochs_unless_options_say_otherwise():
    whole = resolve("digits")
    config = resolve("digits", quick=True)
    assert config.relabel.epochs == whole.relabel.epochs // 5
    assert config.evaluate.num_students == 2 < whole.evaluate.num_students
    assert resolve("digits", quick=True, options={"relabel.epochs": 7}).relabel.epochs == 7
    # It changes nothing of the images.
    assert (config.recover, config.pretrain, config.ipc) == (whole.recover, whole.pretrain, whole.ipc)
