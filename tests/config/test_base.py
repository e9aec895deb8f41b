"""Sections: frozen, checked whole, and refused in words that help."""

import copy
import re
import types
import typing

import pytest

from wmdd.config.distill import DistillConfig, override, section_names
from wmdd.config.recipes import recipe
from wmdd.config.students import EvaluateConfig, RelabelConfig
from wmdd.config.teacher import PretrainConfig
from wmdd.errors import ConfigError


def section_of(name):
    return DistillConfig.model_fields[name].annotation


def test_bad_override_names_option_value_and_remedy(subtests):
    cases = [
        ({"ray.speculate": 4}, r"ray\.speculate: no longer exists, since no task gets a second copy; leave it out"),
        ({"recover.rate": 1}, r"recover\.rate: no such option; the options here are init, iterations, lr"),
        ({"rcover.lr": 1}, r"rcover\.lr: no such option; the sections are data, pretrain"),
        ({"pretrain.weights": "x"}, r"pretrain\.weights: is pretrain\.checkpoint now"),
        ({"barycenter": {"ipc": 1}}, r"barycenter\.ipc: is ipc now, an option of the run"),
        ({"seeds": 1}, r"seeds: no such option; the options here are recipe, method, seed, ipc, data"),
        ({"recover.lr.peak": 1}, r"recover\.lr\.peak: no such option"),
        ({"recover.lr": -1}, r"recover\.lr=-1: input should be greater than 0"),
        ({"recover.lr": float("nan")}, r"recover\.lr=nan: input should be a finite number"),
        ({"data.val_fraction": float("nan")}, r"data\.val_fraction=nan: input should be a finite number"),
        ({"pretrain.norm_weight_decay": ".nan"}, r"pretrain\.norm_weight_decay='nan': input should be a finite number"),
        ({"recover.bn_weight": float("inf")}, r"recover\.bn_weight=inf: input should be a finite number"),
        ({"recover.init": "nois"}, r"recover\.init='nois': input should be 'noise', 'nearest', 'random' or 'easiest'"),
        ({"recover.crop_scale": (0.9, 0.2)}, r"the low end must not be above the high end; try 0\.2,0\.9"),
        ({"recover.crop_scale": (0.0, 0.2)}, r"recover\.crop_scale\.0=0\.0: input should be greater than 0"),
        ({"recover.betas": (0.5, 1.0)}, r"recover\.betas\.1=1\.0: input should be less than 1"),
        ({"ipc": 0}, r"ipc=0: input should be greater than or equal to 1"),
        ({"ipc": 1.5}, r"ipc=1\.5: "),
        ({"evaluate.students": ()}, r"evaluate\.students=\(\): is empty; name one or more"),
        ({"evaluate.students": ","}, r"evaluate\.students=',': holds an empty name; leave it out"),
        ({"relabel.teachers": ["a", ""]}, r"relabel\.teachers=\['a', ''\]: holds an empty name"),
        ({"seed": 1e300}, r"seed=1e\+300: input should be a smaller number"),
        ({"recover.lr": 10**400}, r"^recover\.lr=10{59}\.\.\.0{60}: input should be a number"),
        ({"ipc": True}, r"ipc=True: input should be a whole number, such as 10"),
        ({"recover.lr": True}, r"recover\.lr=True: input should be a number"),
        ({"data.path": False}, r"data\.path=False: input should be text"),
        ({"data.path": ["a"]}, r"data\.path=\['a'\]: holds a list; write one value"),
        ({"data.path": {"a": 1}}, r"data\.path={'a': 1}: holds a mapping; write one value"),
        (
            {"data.classes": [1.5, None]},
            r"classes\.0=1\.5: input should be text; .*classes\.1=None: input should be text",
        ),
        ({"data.classes": {"a", "b"}}, r"data\.classes={.*}: a set has no order; write a list"),
        ({"data.classes": {"a": 1}}, r"data\.classes={'a': 1}: holds a mapping"),
        ({"recover.crop_scale": (0.1, 0.5, 1)}, r"recover\.crop_scale=0\.1,0\.5,1: has too many values; give 2"),
        ({"recover.crop_scale": None}, r"^recover\.crop_scale: has too few values; give two, such as 0\.5,0\.9$"),
        ({"recover": 3}, r"recover=3: is a section; write its options, such as recover\.init"),
        ({"recover": {"lr": 1}, "recover.lr": 2}, r"recover\.lr: is given twice; leave one out"),
        ({"recover": {3: 1}}, r"recover\.3: no such option"),
        (None, r"changes: is of type NoneType; give a mapping, such as {\"recover\.lr\": 0\.1}"),
        ([("seed", 1)], r"changes: is of type list; "),
        ({3: 1}, r"changes: 3 is no option's name"),
        ({"runtime.device": "gpu"}, r"runtime\.device='gpu': input should be 'auto', 'cpu' or 'cuda'"),
    ]
    for changes, message in cases:
        with subtests.test(changes=changes), pytest.raises(ConfigError, match=message):
            override(DistillConfig(), changes)


def test_bad_configuration_is_refused_in_one_line(subtests):
    cases = [
        (lambda: DistillConfig(sed=1), r"sed: no such option; the options here are .*; did you mean seed\?$"),
        (lambda: DistillConfig(seed="x"), r"^seed='x': input should be a whole number"),
        (lambda: DistillConfig(data={"pth": 1}, seed="x"), r"^seed='x': .*data\.pth: .* did you mean data\.path\?"),
        (lambda: PretrainConfig(epocs=1), r"pretrain\.epocs: no such option; .*; did you mean pretrain\.epochs\?$"),
        (lambda: recipe("digits").copy(update={"sed": 1}), r"sed: no such option; .* did you mean seed\?"),
        (lambda: recipe("digits").model_copy(update=[1]), r"update: is of type list; give a mapping"),
        (lambda: override("digits", {"seed": 1}), r"config: is of type str; give a DistillConfig, as recipe\(\)"),
    ]
    for build, message in cases:
        with subtests.test(build=build):
            with pytest.raises(ConfigError, match=message) as caught:
                build()
            assert "\n" not in str(caught.value)


def test_every_mistake_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        DistillConfig.checked({"seed": "x", "recover": {"lr": 0, "rate": 1}})
    assert all(name in str(caught.value) for name in ("seed", "recover.lr", "recover.rate"))
    assert "\n" not in str(caught.value)


def test_section_is_frozen_and_names_override(subtests):
    for section in section_names():
        with subtests.test(section=section):
            config = DistillConfig()
            value = getattr(config, section)
            name = next(iter(type(value).model_fields))
            line = re.escape(
                f"{section}.{name}: a configuration does not change in place; write config = override(config, "
            )
            with pytest.raises(ConfigError, match=line) as told:
                setattr(value, name, getattr(value, name))
            changes = re.search(r"override\((.*)\)$", str(told.value))[0]
            assert eval(changes, {"config": config, "override": override}) == config
            with pytest.raises(ConfigError, match=line):
                delattr(value, name)
            with pytest.raises(ConfigError, match=rf"{section}\.typo: no such option; the options here are {name}"):
                value.typo = 1
            with pytest.raises(ConfigError, match=rf"^{section}: .* override\(config, {{'{section}': \.\.\.}}\)$"):
                setattr(config, section, value)


def test_copy_is_checked_like_override():
    config = recipe("digits")
    changed = config.model_copy(update={"seed": 3, "pretrain": {"epochs": 3}})
    assert changed == override(config, {"seed": 3, "pretrain.epochs": 3})
    assert config.pretrain.model_copy(update={"epochs": 3}) == changed.pretrain
    assert config.copy(update={"seed": 3}) == override(config, {"seed": 3})
    assert config.copy() == config.model_copy() == config.model_copy(deep=True) == copy.copy(config) == config
    for update, message in (
        ({"epocs": 3}, r"pretrain\.epocs: no such option; the options here are model, stem"),
        ({"epochs": 0}, r"pretrain\.epochs=0: input should be greater than or equal to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.pretrain.model_copy(update=update)
        with pytest.raises(ConfigError, match=message):
            config.model_copy(update={"pretrain": update})
    with pytest.raises(ConfigError, match=r"epocs: no such option; the options here are recipe"):
        config.model_copy(update={"epocs": 3})
    with pytest.raises(ConfigError, match=r"override\(config, {'pretrain\.epochs': 3}\)"):
        config.model_copy(update={"pretrain.epochs": 3})


def test_every_option_has_one_short_line_of_meaning(subtests):
    for section in section_names():
        with subtests.test(section=section):
            for name, field in section_of(section).model_fields.items():
                assert field.description, f"{section}.{name}"
                assert len(field.description) < 100, f"{section}.{name}"
                assert "\n" not in field.description, f"{section}.{name}"


def test_option_holds_plain_values_only(subtests):
    for section in section_names():
        with subtests.test(section=section):
            for name, field in section_of(section).model_fields.items():
                assert leaves(field.annotation) <= {str, int, float, bool, types.NoneType}, f"{section}.{name}"


def leaves(annotation):
    """Types at the bottom of an annotation; literals count as the types of their values."""
    if typing.get_origin(annotation) is typing.Literal:
        return {type(value) for value in typing.get_args(annotation)}
    if typing.get_origin(annotation) is typing.Annotated:
        return leaves(typing.get_args(annotation)[0])
    inner = [part for part in typing.get_args(annotation) if part is not ...]
    return set().union(*map(leaves, inner)) if inner else {annotation}


def test_option_is_in_keys_only_where_it_counts():
    assert PretrainConfig().for_key() == RelabelConfig().for_key("protocol") == {}
    assert PretrainConfig(keep="best", lr=0.1).for_key() == {"keep": "best", "lr": 0.1}
    assert PretrainConfig(model="resnet50").for_key() == {}  # among the params of the unit
    assert RelabelConfig(epochs=7, epochs_per_block=9).for_key("protocol") == {"epochs": 7}
    assert EvaluateConfig(temperature=3, lr=0.1).for_key() == {"temperature": 3.0, "lr": 0.1}
    assert EvaluateConfig(temperature=3, lr=0.1, labels="hard").for_key() == {"labels": "hard", "lr": 0.1}
    endless = EvaluateConfig(cosine_stretch=float("inf"))
    assert endless.for_key("protocol") == {"cosine_stretch": float("inf")}
