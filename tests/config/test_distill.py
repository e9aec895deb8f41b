"""The configuration of a run: what goes in comes out, and changes leave the rest."""

import operator
import os

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from wmdd.config import distill as configuration
from wmdd.config.base import Section
from wmdd.config.distill import DistillConfig, changes_in, from_yaml, override, section_names, to_yaml
from wmdd.config.recipes import recipe
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
    "evaluate.baselines": st.lists(st.sampled_from(["random", "nearest", "herding"]), max_size=3, unique=True),
    "runtime.memory_gib": st.floats(0, allow_infinity=False),
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


def test_yaml_leaves_unnamed_options_at_the_base():
    base = override(DistillConfig(), {"recover.lr": 0.5, "seed": 4})
    config = override(base, changes_in("recover: {iterations: 7}\n"))
    assert (config.recover.lr, config.recover.iterations, config.seed) == (0.5, 7, 4)
    assert override(base, changes_in("")) == base


def test_override_leaves_the_original_alone():
    config = DistillConfig()
    changed = override(config, {"recover.lr": 0.125})
    assert (changed.recover.lr, config) == (0.125, DistillConfig())
    assert override(changed, {"recover.lr": config.recover.lr}) == config


def test_override_of_an_option_leaves_the_others():
    config = recipe("digits")
    assert override(config, {"pretrain": {"epochs": 3}}) == override(config, {"pretrain.epochs": 3})
    with pytest.raises(ConfigError, match=r"pretrain\.epocs: no such option"):
        override(config, {"pretrain": {"epocs": 3}})


def test_configuration_is_hashable_by_value():
    assert hash(DistillConfig()) == hash(from_yaml(to_yaml(DistillConfig())))


def test_paths_of_a_configuration_know_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a")
    config = from_yaml("data: {path: ~/x}\npretrain: {checkpoint: ~/w.pth}")
    assert (config.data.path, config.pretrain.checkpoint) == ("/home/a/x", "/home/a/w.pth")


def test_every_section_is_part_of_the_configuration():
    own = {kind for kind in vars(configuration).values() if isinstance(kind, type) and issubclass(kind, Section)}
    assert own - {Section, DistillConfig} == {DistillConfig.model_fields[name].annotation for name in section_names()}


SETTLED = {
    "one image per class": ({"ipc": 1}, 2),
    "two": ({"ipc": 2}, 1),
    "an odd size": ({"ipc": 1, "data.image_size": 33}, 1),
    "learned masses": ({"ipc": 1, "barycenter.mass": "learned"}, 1),
    "statistics of all classes": ({"ipc": 1, "recover.bn_target": "global"}, 1),
}


@pytest.mark.parametrize("case", SETTLED)
def test_tiles_follow_from_the_images_per_class_where_they_fit(case):
    changes, tiles = SETTLED[case]
    config = override(DistillConfig(), {**changes, "recover.tiles": 0})
    assert (config.tiles, config.settled().recover.tiles, config.atoms) == (tiles, tiles, config.ipc * tiles**2)
    assert config.settled() == override(config, {"recover.tiles": tiles})
    given = override(config, {"recover.tiles": 1})
    assert given.settled() is given
