"""Methods over one recipe: what each changes, what it plans, and what it leaves as it was."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmdd.config.distill import from_yaml, override, to_yaml
from wmdd.config.methods import methods
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_method
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.distilled import DistilledImages
from wmdd.engine.plan import plan_from
from wmdd.method.selection import herd
from wmdd.storage.store import ArtifactRef, ArtifactStore

FEW = {"data.classes": ("0", "1", "2"), "ipc": 2, "evaluate.num_students": 2}


@pytest.fixture(scope="module")
def plan():
    index = build_index("builtin:digits", classes=("0", "1", "2"))
    return lambda name, **more: plan_from(
        override(with_method(recipe("digits"), name), FEW | more), index, ArtifactRef("index", "index", "key")
    )


def test_method_changes_only_its_options(subtests):
    for name in methods():
        with subtests.test(name=name):
            base, changed = recipe("cifar10-quick"), with_method(recipe("cifar10-quick"), name)
            assert changed.method == name
            assert changed.model_copy(update={"method": "wmdd", "recover": base.recover}) == base
            assert from_yaml(to_yaml(changed)) == changed


def test_methods_are_what_their_papers_say():
    sre2l, cda, paper = (with_method(recipe("cifar10"), name).recover for name in ("sre2l", "cda", "wmdd-paper-loss"))
    assert (sre2l.feature_weight, sre2l.ce_weight, sre2l.bn_target, sre2l.init) == (0, 1, "global", "noise")
    assert (sre2l.bn_weight, sre2l.first_bn_multiplier, sre2l.curriculum) == (1.0, 10.0, "none")
    assert with_method(recipe("imagenet-1k"), "sre2l").recover.bn_weight == 0.01
    assert cda.model_copy(update={"curriculum": "none"}) == sre2l
    assert cda.curriculum == "cosine"
    assert (paper.feature_loss, paper.ce_weight, paper.bn_target) == ("squared", 0.0, "class")


def test_methods_share_what_none_of_them_changes(plan):
    plans = {name: plan(name) for name in methods()}
    for stage in ("pretrain", "statistics", "barycenter"):
        assert len({tuple(made.refs(stage)) for made in plans.values() if made.refs(stage)}) == 1
    labels = {name: {unit.ref for unit in made.units("relabel")} for name, made in plans.items()}
    for name in ("sre2l", "cda", "herding", "nearest", "easiest"):
        assert labels["random"] <= labels[name]
        assert not (labels[name] - labels["random"]) & labels["wmdd"]


def test_what_is_chosen_needs_no_recovery(plan):
    random, herding, wmdd = (plan(name, **{"evaluate.baselines": ()}) for name in ("random", "herding", "wmdd"))
    assert [stage for stage, tasks in random.tasks.items() if tasks] == ["pretrain", "select", "relabel", "evaluate"]
    assert not herding.tasks["recover"]
    assert len(herding.refs("statistics")) == 3
    assert (random.made[0], herding.made[0], wmdd.made[0]) == ("random-0", "distilled", "distilled")
    assert [ref.unit for ref in herding.made[1]] == [f"herding-class-0000{c}" for c in range(3)]
    assert [ref.unit for ref in random.made[1]] == [f"random-0-class-0000{c}" for c in range(3)]
    assert wmdd.made[1] == wmdd.refs("recover")
    assert [unit.params.seed for unit in random.units("evaluate")] == [0, 1]


def test_random_images_are_read_in_tasks_of_some_classes(plan, monkeypatch):
    def plan_random():
        return plan("random", **{"evaluate.baselines": ()})

    whole = plan_random()
    assert [len(task.units) for task in whole.tasks["select"]] == [3, 3]  # one for each draw
    monkeypatch.setattr("wmdd.stages.plans.select.IMAGES_PER_TASK", 5)
    parts = plan_random()
    assert [len(task.units) for task in parts.tasks["select"]] == [2, 1, 2, 1]
    assert parts.refs("select") == whole.refs("select")


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 5))
def test_herding_always_chooses_the_best_next_image(count, dim, seed):
    features = np.random.default_rng(seed).normal(size=(12, dim))
    chosen = herd(features.astype(np.float32), count)
    assert len(set(chosen.tolist())) == count
    mean = features.mean(axis=0)
    for size in range(1, count + 1):
        kept = chosen[: size - 1].tolist()
        gaps = {i: np.linalg.norm(features[[*kept, i]].mean(axis=0) - mean) for i in range(12) if i not in kept}
        assert gaps[chosen[size - 1]] <= min(gaps.values()) + 1e-6


@pytest.mark.parametrize("name", ["random", "nearest", "easiest"])
def test_selection_is_the_same_as_a_method_and_as_a_baseline(plan, name):
    alone = plan(name, **{"evaluate.baselines": ()})
    beside = plan("wmdd", **{"evaluate.baselines": (name,)})
    for stage in ("select", "relabel", "evaluate"):
        assert set(alone.refs(stage)) <= set(beside.refs(stage))
        assert alone.refs(stage)
    assert alone.made[0] == {"random": "random-0"}.get(name, name)


def test_baselines_are_those_that_are_named(plan):
    sets = {
        (): {"distilled"},
        ("herding",): {"distilled", "herding"},
        ("random", "nearest"): {"distilled", "random-0", "random-1", "nearest"},
    }
    for names, images in sets.items():
        made = plan("wmdd", **{"evaluate.baselines": names})
        assert {unit.params.images for unit in made.units("evaluate")} == images
    # What is the method is no baseline, and each other selection has what it needs.
    herding = plan("herding", **{"evaluate.baselines": ("herding", "random")})
    assert {unit.params.images for unit in herding.units("evaluate")} == {"distilled", "random-0", "random-1"}
    assert not herding.tasks["barycenter"]
    assert len(plan("herding", **{"evaluate.baselines": ("nearest",)}).refs("barycenter")) == 3


def test_students_of_one_selection_have_every_seed(plan):
    units = [unit.params for unit in plan("wmdd").units("evaluate")]
    seeds = {images: [unit.seed for unit in units if unit.images == images] for images in ("easiest", "random-1")}
    assert seeds == {"easiest": [0, 1], "random-1": [1]}


def test_slice_of_images_is_a_set_of_them():
    images = DistilledImages(
        torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2),
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([0.5, 0.5, 0.25, 0.75]),
        ("a", "b"),
        transform=lambda image: int(image.max()),
        url="runs/x",
    )
    part = images[1:3]
    assert (list(part), part.weights.tolist(), part.class_names, part.url) == (
        [(1, 0), (2, 1)],
        [0.5, 0.25],
        ("a", "b"),
        "runs/x",
    )
    assert (images[np.int64(-1)], list(images[::3]), len(images[9:])) == ((3, 1), [(0, 0), (3, 1)], 0)
    assert list(images[::-1]) == [(3, 1), (2, 1), (1, 0), (0, 0)]
    for place in ("a", [0, 1], 1.5):
        with pytest.raises(TypeError, match=r"give a whole number or a slice; torch\.utils\.data\.Subset takes a list"):
            images[place]


def test_global_statistics_share_one_batch_of_classes(tmp_path):
    """The released code takes a hundred classes and an image of each; whole classes would meet a part's statistics."""
    config = override(recipe("digits"), {"ipc": 15})
    store = ArtifactStore(str(tmp_path / "store"))
    index, ref = load_index(config, store, lambda done, total: None)
    made = plan_from(with_method(config, "sre2l"), index, ref)
    (task,) = made.tasks["recover"]
    assert {unit.params.images_at_once for unit in task.units} == {10}
    assert len(plan_from(config, index, ref).tasks["recover"]) == 2
    assert plan_from(config, index, ref).units("recover")[0].params.images_at_once is None
