"""The configuration: what goes in comes out, what cannot work is refused in words that help."""

import copy
import enum
import operator
import os
import re
import types
import typing
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings

from wmdd.config import distill as configuration
from wmdd.config.base import Section
from wmdd.config.distill import DistillConfig, changes_in, field_type, from_yaml, override, to_yaml
from wmdd.config.recipes import recipe, recipes
from wmdd.config.students import EvaluateConfig, RelabelConfig
from wmdd.config.teacher import PretrainConfig
from wmdd.config.values import from_text
from wmdd.engine.config_file import read_config
from wmdd.errors import ConfigError

FRACTIONS = st.floats(0, 1, exclude_min=True)
POSITIVES = st.floats(0, exclude_min=True, allow_infinity=False)
OPTIONS = {
    "seed": st.integers(),
    "recipe": st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=10),
    "data.path": st.one_of(st.none(), st.sampled_from(["~", "null", "yes", "1e3", "s3://a/b", "x: y", "0x10", " a "])),
    "data.classes": st.one_of(
        st.none(), st.lists(st.sampled_from(["no", "1", "1.0", "a", "é", "on"]), min_size=1, max_size=3)
    ),
    "data.crop_ratio": FRACTIONS,
    "pretrain.lr": POSITIVES,
    "recover.betas": st.tuples(*(st.floats(0, 1, exclude_max=True),) * 2),
    "recover.crop_scale": st.tuples(FRACTIONS, FRACTIONS).map(sorted),
    "recover.iterations": st.integers(0, 10**9),
    "relabel.mix": st.sampled_from(["cutmix", "none"]),
    "evaluate.students": st.lists(
        st.sampled_from(["convnet3", "timm/resnet10t", "no"]), min_size=1, max_size=3, unique=True
    ),
    "evaluate.random_real": st.booleans(),
    "runtime.memory_gib": st.floats(0, allow_infinity=False),
}


def sections():
    return {
        name: field.annotation
        for name, field in DistillConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


@settings(max_examples=60, deadline=None)
@given(changes=st.fixed_dictionaries({}, optional=OPTIONS))
def test_yaml_gives_an_equal_configuration_back(changes):
    config = override(DistillConfig(), changes)
    assert from_yaml(to_yaml(config)) == config
    for dotted, value in changes.items():
        found = operator.attrgetter(dotted)(config)
        known = os.path.expanduser(value) if dotted == "data.path" and value else value
        assert found == (tuple(known) if isinstance(known, list) else known)


def test_recipe_loads_under_its_name_and_survives_yaml(subtests):
    for name in recipes():
        with subtests.test(name=name):
            config = recipe(name)
            assert config.recipe == name
            assert from_yaml(to_yaml(config)) == config


def test_yaml_leaves_unnamed_options_at_the_base():
    base = override(DistillConfig(), {"recover.lr": 0.5, "seed": 4})
    config = override(base, changes_in("recover: {iterations: 7}\n"))
    assert (config.recover.lr, config.recover.iterations, config.seed) == (0.5, 7, 4)
    assert override(base, changes_in("")) == base


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
        ({"recover.init": "nois"}, r"recover\.init='nois': input should be 'noise', 'nearest' or 'random'"),
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


class Names(enum.Enum):
    CAT = "cat"


# A value of Python, and the text that means the same on the command line.
SAME = {
    "names as text": ("data.classes", "cat,dog", "cat,dog"),
    "names as YAML's list": ("data.classes", "[cat, 'a, b']", "[cat, 'a, b']"),
    "numbers for names": ("data.classes", [0, 1], "0,1"),
    "one number": ("data.classes", 0, "0"),
    "numbers of numpy": ("data.classes", np.arange(2), "0,1"),
    "names of numpy": ("data.classes", np.array(["a", "b"]), "a,b"),
    "truth values in a list": ("data.classes", [False, True], "False,True"),
    "numbers of torch": ("data.classes", torch.arange(2), "0,1"),
    "generator": ("data.classes", (str(i) for i in range(2)), "0,1"),
    "keys": ("data.classes", {"b": 1, "a": 2}.keys(), "b,a"),
    "enum": ("data.classes", [Names.CAT, "dog"], "cat,dog"),
    "all classes": ("data.classes", "none", "none"),
    "student": ("evaluate.students", "convnet2_w16", "convnet2_w16"),
    "no teachers": ("relabel.teachers", None, "none"),
    "path": ("data.path", Path("~/x"), "~/x"),
    "number for a path": ("data.path", 123, "123"),
    "no weights": ("pretrain.checkpoint", "none", "none"),
    "whole number of numpy": ("pretrain.epochs", np.int64(10), "10"),
    "whole number of torch": ("pretrain.epochs", torch.tensor(10), "10"),
    "number of numpy": ("recover.lr", np.float64(0.5), ".5"),
    "pair as text": ("recover.crop_scale", "0.5,1", "0.5,1"),
    "pair of numpy": ("recover.crop_scale", np.array([0.5, 1]), "0.5,1"),
    "truth value of numpy": ("pretrain.flip", np.bool_(False), "off"),
    "infinite": ("evaluate.cosine_stretch", ".inf", ".inf"),
}


def test_value_means_in_python_what_its_text_means(subtests):
    for case, (option, value, text) in SAME.items():
        with subtests.test(case=case):
            base = override(DistillConfig(), {"data.classes": ("x",), "data.path": "x", "pretrain.checkpoint": "x.pth"})
            section, name = option.split(".")
            made = override(base, {option: value})
            assert made == override(base, {option: from_text(field_type(option), text)})
            if case != "generator":
                built = type(getattr(base, section))(**{name: value})
                assert getattr(built, name) == getattr(getattr(made, section), name)
                types_of = {type(item) for item in np.atleast_1d(getattr(built, name)).tolist()}
                assert types_of <= {str, int, float, bool, type(None)}


def test_file_called_none_is_a_path():
    assert override(DistillConfig(), {"data.path": Path("none")}).data.path == "none"


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


def test_override_leaves_the_original_alone():
    config = DistillConfig()
    changed = override(config, {"recover.lr": 0.125})
    assert (changed.recover.lr, config) == (0.125, DistillConfig())
    assert override(changed, {"recover.lr": config.recover.lr}) == config


def test_section_is_frozen_and_names_override(subtests):
    for section in sections():
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


def test_override_of_an_option_leaves_the_others():
    config = recipe("digits")
    assert override(config, {"pretrain": {"epochs": 3}}) == override(config, {"pretrain.epochs": 3})
    with pytest.raises(ConfigError, match=r"pretrain\.epocs: no such option"):
        override(config, {"pretrain": {"epocs": 3}})


def test_configuration_is_hashable_by_value():
    assert hash(DistillConfig()) == hash(from_yaml(to_yaml(DistillConfig())))


def test_text_of_no_configuration_is_refused(subtests):
    cases = ["[1, 2]", "word", "recover: [", "recover: 3", "3", "a: !!python/object:os.system x"]
    for text in cases:
        with subtests.test(text=text):
            with pytest.raises(ConfigError) as caught:
                from_yaml(text)
            assert "\n" not in str(caught.value)


# What the same text means as an option of the command line.
READ = {
    "numbers": (
        "data.classes",
        "data: {classes: [0, 1, 10, 010, 1e3, 0x1F, 1_0, 1.50]}",
        ("0", "1", "10", "010", "1e3", "0x1F", "1_0", "1.50"),
    ),
    "words": (
        "data.classes",
        "data: {classes: [yes, no, on, off, null, ~, true, none]}",
        ("yes", "no", "on", "off", "null", "~", "true", "none"),
    ),
    "dates": ("data.classes", "data: {classes: [2024-01-01, 12:30:00]}", ("2024-01-01", "12:30:00")),
    "one text": ("data.classes", "data: {classes: '0, 1,10'}", ("0", "1", "10")),
    "no classes": ("data.classes", "data: {classes: none}", None),
    "no path": ("data.path", "data:\n  path:\n", None),
    "no weights": ("pretrain.checkpoint", "pretrain: {checkpoint: none}", None),
    "null": ("pretrain.checkpoint", "pretrain: {checkpoint: ~}", None),
    "quoted null": ("pretrain.checkpoint", "pretrain: {checkpoint: 'null'}", "null"),
    "number as a name": ("recipe", "recipe: 2024", "2024"),
    "scientific": ("recover.lr", "recover: {lr: 1e-4}", 1e-4),
    "leading zero": ("seed", "seed: 010", 10),
    "tagged": ("seed", "seed: !!int 7", 7),
    "pair as a list": ("recover.crop_scale", "recover: {crop_scale: [0.08, 1]}", (0.08, 1.0)),
    "pair as a text": ("recover.crop_scale", "recover:\n  crop_scale: 0.08,1", (0.08, 1.0)),
    "pair as Python": ("recover.crop_scale", "recover:\n  crop_scale: (0.08, 1)", (0.08, 1.0)),
    "off": ("recover.flip", "recover: {flip: off}", False),
    "word on": ("runtime.compile", "runtime: {compile: on}", "on"),
    "word none": ("relabel.mix", "relabel: {mix: none}", "none"),
    "no teachers": ("relabel.teachers", "relabel: {teachers: none}", ()),
    "infinite": ("evaluate.cosine_stretch", "evaluate: {cosine_stretch: .inf}", float("inf")),
    "merged": ("evaluate.lr", "pretrain: &a {lr: 0.5}\nrelabel: {epochs: 3}\nevaluate: {<<: *a}", 0.5),
    "dotted": ("recover.lr", "recover.lr: 0.5", 0.5),
    "mark": ("seed", "\ufeffseed: 3", 3),
    "JSON": ("data.classes", '{"data": {"classes": ["a", "1"]}}', ("a", "1")),
}


def test_yaml_reads_a_value_as_the_command_line_does(subtests):
    for case, (option, text, value) in READ.items():
        with subtests.test(case=case):
            base = override(DistillConfig(), {"data.classes": ("x",), "data.path": "x", "pretrain.checkpoint": "x.pth"})
            assert operator.attrgetter(option)(override(base, changes_in(text))) == value


REFUSED = {
    "twice": ("recover:\n  lr: 1\n  lr: 2", "line 3: lr is given twice; leave one out"),
    "twice, dotted": ("recover.lr: 1\nrecover: {lr: 2}", "recover.lr: is given twice"),
    "tab": ("recover:\n\tlr: 1", "line 2: it is indented with a tab; use spaces"),
    "list": ("- 1", "holds a list; a configuration is a mapping of sections"),
    "empty list": ("[]", "holds a list"),
    "word": ("false", "holds one value"),
    "two documents": ("seed: 1\n---\nseed: 2", "not YAML: line 1: expected a single document"),
    "no value": ("seed:", "seed=None: has no value; write one, or leave it out"),
    "null": ("recover: {lr: null}", "recover.lr=None: has no value"),
    "list for a value": ("recover: {lr: [1]}", "recover.lr=['1']: holds a list; write one value"),
    "mapping for a value": ("recover: {lr: {peak: 1}}", "recover.lr={'peak': '1'}: holds a mapping; write one value"),
    "itself": ("recover: &a {lr: *a}", "recover.lr={'lr': {...}}: holds a mapping"),
    "list in a list": ("data: {classes: [[a]]}", "data.classes.0=['a']: input should be text"),
    "empty item": ("data:\n  classes:\n  - a\n  -", "data.classes=['a', '']: it holds no name, or an empty one"),
    "one of two": ("recover: {betas: [0.5]}", "recover.betas=0.5: has too few values; give two, such as 0.5,0.9"),
    "section": ("recover: 3", "recover=3: is a section; write its options below it"),
    "typing error": ("recover: {bn_weigth: 1}", "did you mean recover.bn_weight?"),
    "section's typing error": ("recovery: {lr: 1}", "did you mean recover?"),
    "dotted typing error": ("recovr.lr: 1", "did you mean recover.lr"),
    "other section's": ("recover: {ipc: 10}", "did you mean ipc?"),
    "no section": ("iterations: 3", "did you mean recover.iterations?"),
    "deep": ("[" * 5000, "nested too deeply"),
    "no classes": ("data: {classes: []}", "data.classes=[]: it holds no name, or an empty one"),
    "empty class": ("data: {classes: [a, '']}", "data.classes=['a', '']: it holds no name, or an empty one"),
    "empty path": ("data: {path: ''}", "data.path='': it is empty; give a path or URL, or none"),
}


def test_bad_yaml_is_refused_by_option_or_line(subtests):
    for case, (text, message) in REFUSED.items():
        with subtests.test(case=case):
            with pytest.raises(ConfigError) as caught:
                from_yaml(text)
            assert message in str(caught.value)
            assert "\n" not in str(caught.value)


def test_empty_file_or_section_changes_nothing(subtests):
    cases = ["", "# nothing", "---", "recover:", "recover:\n  # lr: 1\nseed: 0", "null"]
    for text in cases:
        with subtests.test(text=text):
            base = override(DistillConfig(), {"recover.lr": 0.5})
            assert override(base, changes_in(text)) == base


def test_paths_of_a_configuration_know_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a")
    config = from_yaml("data: {path: ~/x}\npretrain: {checkpoint: ~/w.pth}")
    assert (config.data.path, config.pretrain.checkpoint) == ("/home/a/x", "/home/a/w.pth")


def test_file_of_any_editor_is_read(subtests, tmp_path, monkeypatch):
    for encoding in ["utf-8", "utf-8-sig", "utf-16"]:
        with subtests.test(encoding=encoding):
            monkeypatch.setenv("HOME", str(tmp_path))
            (tmp_path / "my.yaml").write_bytes("data: {classes: [café, 猫]}".encode(encoding))
            assert read_config("~/my.yaml").data.classes == ("café", "猫")


def test_file_of_another_encoding_is_named(subtests, tmp_path):
    for encoding in ["utf-16-le", "utf-16-be", "utf-32"]:
        with subtests.test(encoding=encoding):
            (tmp_path / "my.yaml").write_bytes("seed: 3".encode(encoding))
            with pytest.raises(ConfigError, match=r"my\.yaml: holds zero bytes, as UTF-16 .*; save the file as UTF-8$"):
                read_config(str(tmp_path / "my.yaml"))


def test_file_that_is_not_utf8_names_the_line(tmp_path):
    (tmp_path / "my.yaml").write_bytes("seed: 1\n# café\n".encode("latin-1"))
    with pytest.raises(
        ConfigError, match=r"--config .*my\.yaml: line 2 is not UTF-8 \(byte 0xe9\); save the file as UTF-8"
    ):
        read_config(str(tmp_path / "my.yaml"))


def test_file_that_cannot_be_used_is_named(subtests, tmp_path):
    cases = [None, "recover: {lr: 0}", "recover: {lr: 1}\nrecover: {lr: 2}", "recover: ["]
    for text in cases:
        with subtests.test(text=text):
            path = tmp_path / "my.yaml"
            if text is not None:
                path.write_text(text)
            with pytest.raises(ConfigError, match=rf"--config {path}: "):
                read_config(str(path))


def test_file_is_read_over_a_base(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump({"recover": {"lr": 0.5}, "seed": 3}))
    assert read_config(str(path)) == override(DistillConfig(), {"recover.lr": 0.5, "seed": 3})


def test_every_option_has_one_short_line_of_meaning(subtests):
    for section in sections():
        with subtests.test(section=section):
            for name, field in sections()[section].model_fields.items():
                assert field.description, f"{section}.{name}"
                assert len(field.description) < 100, f"{section}.{name}"
                assert "\n" not in field.description, f"{section}.{name}"


def test_every_section_is_part_of_the_configuration():
    own = {kind for kind in vars(configuration).values() if isinstance(kind, type) and issubclass(kind, Section)}
    assert own - {Section, DistillConfig} == set(sections().values())


def test_option_holds_plain_values_only(subtests):
    for section in sections():
        with subtests.test(section=section):
            for name, field in sections()[section].model_fields.items():
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


def test_list_of_names_may_be_written_as_yaml(subtests):
    cases = [
        ("cat,dog", ("cat", "dog")),
        ("[cat,dog]", ("cat", "dog")),
        ("[cat, 'dog, wild', 007]", ("cat", "dog, wild", "007")),
        ("[]", ()),
        ("[red],[blue]", ("[red]", "[blue]")),
        ("[a]b,c]", ("[a]b", "c]")),
        ("[a: b]", ("[a: b]",)),
    ]
    for text, classes in cases:
        with subtests.test(text=text):
            assert from_text(field_type("data.classes"), text) == classes


def test_list_of_numbers_may_be_in_brackets():
    for text in ("0.5,1", "[0.5, 1]", "(0.5, 1)"):
        assert from_text(field_type("recover.crop_scale"), text) == ("0.5", "1")
