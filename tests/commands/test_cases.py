"""The cases of a comparison: which there are, what they share, and what cannot be compared."""

import pytest

from wmdd.cli.main import _run, cli
from wmdd.cli.options import configure
from wmdd.commands.compare import cases
from wmdd.config.cases import Case
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_protocol
from wmdd.engine.plan import make_plan
from wmdd.errors import ConfigError
from wmdd.storage.store import ArtifactStore


def test_cases_are_all_pairs_with_changes_by_method():
    made = cases(recipe("digits"), ["wmdd", "sre2l"], [1, 10], {"sre2l": {"recover.bn_weight": "5"}})
    assert list(made) == [Case("wmdd", 1), Case("sre2l", 1), Case("wmdd", 10), Case("sre2l", 10)]
    assert {made[Case("sre2l", ipc)].recover.bn_weight for ipc in (1, 10)} == {5.0}
    assert made[Case("wmdd", 10)].recover == recipe("digits").recover
    assert made[Case("wmdd", 10)].ipc == 10


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


def test_default_methods_include_the_baselines_of_a_run():
    params = cli.commands["compare"].make_context("compare", ["digits"]).params
    assert params["methods"] == "wmdd,sre2l,easiest,random"
    assert set(recipe("digits").evaluate.baselines) <= set(params["methods"].split(","))


def test_comparison_takes_rates_of_each_size():
    words = ("imagenette", "--protocol", "cvdd", "--evaluate.students", "resnet18,resnet50")
    params = cli.commands["compare"].make_context("compare", [*words, "--ipc", "1,10"]).params
    config = configure(params)
    assert (config.evaluate.lr, config.evaluate.rates) == (5e-4, ())
    ten = cases(config, ["wmdd"], [1, 10], {})[Case("wmdd", 10)].evaluate
    assert (ten.lr, ten.cosine_stretch, ten.rates) == (5e-4, 1.0, ("resnet50=0.001:1",))


def test_comparison_applies_a_protocol_to_every_size():
    made = cases(with_protocol(recipe("cifar10"), "rded"), ["wmdd"], [1, 50], {})
    assert {ipc: case.relabel.batch_size for (_, ipc, *_), case in made.items()} == {1: 10, 50: 100}
    changed = cases(override(recipe("cifar10"), {"relabel.batch_size": 7}), ["wmdd"], [1, 50], {})
    assert {case.relabel.batch_size for case in changed.values()} == {7}
    longer = cases(override(with_protocol(recipe("cifar10"), "rded"), {"relabel.epochs": 20}), ["wmdd"], [1, 50], {})
    assert [(case.relabel.batch_size, case.relabel.epochs) for case in longer.values()] == [(10, 20), (100, 20)]
    plain = recipe("cifar10-quick")
    (quick,) = cases(plain, ["wmdd"], [10], {}).values()
    assert quick == override(plain, {"evaluate.baselines": ()})


def test_cases_have_no_further_random_images():
    base = override(recipe("digits"), {"evaluate.baselines": ("random", "easiest"), "evaluate.worth": (1, 5)})
    for config in cases(base, ["wmdd", "random"], [1, 2], {}, ["views", "hard"]).values():
        assert (config.evaluate.baselines, config.evaluate.worth) == ((), ())


def test_options_that_methods_share_are_for_all(subtests):
    for field in ("ipc", "pretrain.epochs", "evaluate.num_students", "relabel.epochs", "data.path"):
        line = rf"--set wmdd:{field}: is the same for all methods"
        with subtests.test(field=field), pytest.raises(ConfigError, match=line):
            cases(recipe("digits"), ["wmdd", "random"], [1], {"wmdd": {field: 1}})


def test_regimes_and_budgets_are_more_cases_of_the_same(subtests):
    base = override(recipe("digits"), {"relabel.teachers": ("convnet2",), "relabel.augment": "randaugment"})
    made = cases(base, ["wmdd", "random"], [1], {}, ["views", "fixed", "hard"], [50, 200])
    assert [case.folder for case in made][:3] == [
        "wmdd-ipc-1-views-epochs-50",
        "random-ipc-1-views-epochs-50",
        "wmdd-ipc-1-fixed-epochs-50",
    ]
    assert len(made) == len({case.folder for case in made}) == 12
    assert {config.relabel.epochs for case, config in made.items() if case.epochs == 50} == {50}
    # Views change in the same way whoever draws them.
    wanted = {
        "views": ("soft", "randaugment", "none", ("convnet2",)),
        "fixed": ("fixed", "none", "randaugment", ("convnet2",)),
        "hard": ("hard", "none", "randaugment", ()),
    }
    for regime, values in wanted.items():
        with subtests.test(regime=regime):
            config = made[Case("wmdd", 1, regime, 200)]
            students = config.evaluate
            found = (students.labels, config.relabel.augment, students.augment, config.relabel.teachers)
            assert found == values
            assert config.recover == base.recover


def test_hard_recipe_is_compared_under_soft_labels_too():
    base = override(with_protocol(recipe("digits"), "hard"), {"evaluate.augment": "trivialaugment"})
    (views, hard) = cases(base, ["wmdd"], [1], {}, ["views", "hard"]).values()
    assert (views.evaluate.labels, views.relabel.augment, views.evaluate.augment) == ("soft", "trivialaugment", "none")
    assert hard == override(base, {"evaluate.baselines": ()})


def test_budgets_share_the_blocks_of_labels(tmp_path):
    base = override(recipe("digits"), {"relabel.epochs_per_block": 4})
    short, long = cases(base, ["random"], [1], {}, [], [4, 10]).values()
    store = ArtifactStore(str(tmp_path))
    labels = [set(make_plan(config, store).refs("relabel")) for config in (short, long)]
    assert labels[0] < labels[1]


def test_regimes_and_budgets_that_cannot_be_are_refused(subtests):
    refused = [
        (["soft"], [], r"--regimes soft: no such regime; choose from views, fixed, hard"),
        (["views", "views"], [], r"--regimes views,views: names views twice; leave one out"),
        ([], [5, 5], r"--epochs 5,5: names 5 twice; leave one out"),
        ([], [0], r"epochs=0"),
    ]
    for regimes, epochs, message in refused:
        with subtests.test(regimes=regimes, epochs=epochs), pytest.raises(ConfigError, match=message):
            cases(recipe("digits"), ["wmdd"], [1], {}, regimes, epochs)


def test_empty_lists_of_regimes_and_budgets_are_refused(subtests, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option in ("--regimes", "--epochs"):
        with subtests.test(option=option):
            assert _run(["compare", "digits", option, ""]) == 2
            assert capsys.readouterr().err == f"wmdd: {option} '': is empty; name one or more\n"
    assert not list(tmp_path.iterdir())
