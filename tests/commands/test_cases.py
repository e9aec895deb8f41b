"""The cases of a comparison: which there are, what they share, and what cannot be compared."""

import pytest

from wmdd.cli.main import cli
from wmdd.cli.options import configure
from wmdd.commands.compare import cases
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_protocol
from wmdd.errors import ConfigError


def test_cases_are_all_pairs_with_changes_by_method():
    made = cases(recipe("digits"), ["wmdd", "sre2l"], [1, 10], {"sre2l": {"recover.bn_weight": "5"}})
    assert list(made) == [("wmdd", 1), ("sre2l", 1), ("wmdd", 10), ("sre2l", 10)]
    assert {made["sre2l", ipc].recover.bn_weight for ipc in (1, 10)} == {5.0}
    assert made["wmdd", 10].recover == recipe("digits").recover
    assert made["wmdd", 10].ipc == 10


def test_comparison_that_cannot_work_is_refused(subtests):
    refused = [
        (["wmdd", "nosuch"], [1], {}, "--methods nosuch: no such method; choose from wmdd, "),
        (["wmdd"], [1], {"cda": {}}, "--set cda: is not compared; the methods are wmdd"),
        (["wmdd"], [0], {}, r"ipc=0"),
        (["wmdd"], [], {}, "--methods, --ipc: name at least one"),
    ]
    for names, ipcs, changes, message in refused:
        with subtests.test(names=names), pytest.raises(ConfigError, match=message):
            cases(recipe("digits"), names, ipcs, changes)


def test_comparison_takes_rates_of_each_size():
    words = ("imagenette", "--protocol", "cvdd", "--evaluate.students", "resnet18,resnet50")
    params = cli.commands["compare"].make_context("compare", [*words, "--ipc", "1,10"]).params
    config = configure(params)
    assert (config.evaluate.lr, config.evaluate.rates) == (5e-4, ())
    ten = cases(config, ["wmdd"], [1, 10], {})["wmdd", 10].evaluate
    assert (ten.lr, ten.cosine_stretch, ten.rates) == (5e-4, 1.0, ("resnet50=0.001:1",))


def test_comparison_applies_a_protocol_to_every_size():
    made = cases(with_protocol(recipe("cifar10"), "rded"), ["wmdd"], [1, 50], {})
    assert {ipc: case.relabel.batch_size for (_, ipc), case in made.items()} == {1: 10, 50: 100}
    changed = cases(override(recipe("cifar10"), {"relabel.batch_size": 7}), ["wmdd"], [1, 50], {})
    assert {case.relabel.batch_size for case in changed.values()} == {7}
    longer = cases(override(with_protocol(recipe("cifar10"), "rded"), {"relabel.epochs": 20}), ["wmdd"], [1, 50], {})
    assert [(case.relabel.batch_size, case.relabel.epochs) for case in longer.values()] == [(10, 20), (100, 20)]
    plain = recipe("cifar10-quick")
    (quick,) = cases(plain, ["wmdd"], [10], {}).values()
    assert quick == override(plain, {"evaluate.baselines": ()})


def test_options_that_methods_share_are_for_all(subtests):
    for field in ("ipc", "pretrain.epochs", "evaluate.num_students", "relabel.epochs", "data.path"):
        line = rf"--set wmdd:{field}: is the same for all methods"
        with subtests.test(field=field), pytest.raises(ConfigError, match=line):
            cases(recipe("digits"), ["wmdd", "random"], [1], {"wmdd": {field: 1}})
