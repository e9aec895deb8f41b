"""Values as people write them: one text means one value, on the command line, in YAML and in Python."""

import enum
import operator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from wmdd.config.distill import DistillConfig, changes_in, field_type, from_yaml, override
from wmdd.config.values import from_text
from wmdd.engine.config_file import read_config
from wmdd.errors import ConfigError


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


def test_text_of_no_configuration_is_refused(subtests):
    cases = ["[1, 2]", "word", "recover: [", "recover: 3", "3", "a: !!python/object:os.system x"]
    for text in cases:
        with subtests.test(text=text):
            with pytest.raises(ConfigError) as caught:
                from_yaml(text)
            assert "\n" not in str(caught.value)


def test_empty_file_or_section_changes_nothing(subtests):
    cases = ["", "# nothing", "---", "recover:", "recover:\n  # lr: 1\nseed: 0", "null"]
    for text in cases:
        with subtests.test(text=text):
            base = override(DistillConfig(), {"recover.lr": 0.5})
            assert override(base, changes_in(text)) == base


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
