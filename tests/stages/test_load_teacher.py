"""Loaded teachers: the order of their classes, their input, and accuracy at chance."""

import re

import numpy as np
import pytest
import torch
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.machines import RuntimeConfig
from wmdd.config.recipes import recipe
from wmdd.data.load_index import load_index
from wmdd.engine.plan import plan_from
from wmdd.engine.run import run_stage
from wmdd.errors import ConfigError
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import Unit
from wmdd.stages.load_teacher import best_input, check_order, hardly
from wmdd.stages.plans.pretrain import PRETRAIN
from wmdd.storage.store import ArtifactStore


def confusion(order, right=0.6, classes=10, images=50):
    """Answers of a teacher that is right so often, and whose output `order[c]` stands for class c."""
    rng, counts = np.random.default_rng(0), np.zeros((classes, classes), int)
    for place in range(classes):
        others = rng.multinomial(round(images * (1 - right)), np.full(classes, 1 / classes))
        counts[place] = others
        counts[place, order[place]] += round(images * right)
    return counts


@each_of("order", [range(10), [1, 0, *range(2, 10)], [0, 1, 2, 3, 4, 5, 9, 6, 7, 8]])
def test_classes_in_another_order_are_found(order):
    names = tuple("abcdefghij")
    if list(order) == sorted(order):
        check_order("a.pth", confusion(order), names)
        return
    moved = [place for place in range(10) if order[place] != place]
    told = rf"{len(moved)} of 10 classes .*images of {names[moved[0]]} {names[order[moved[0]]]} and those of"
    with pytest.raises(ConfigError, match=told):
        check_order("a.pth", confusion(order), names)


@each_of("right", [0.15, 0.3, 0.5])
def test_weak_teacher_in_right_order_is_not_refused(right):
    check_order("a.pth", confusion(range(10), right), tuple("abcdefghij"))


@each_of(("classes", "right"), [(10, 0.6), (100, 0.8), (1000, 0.9)])
def test_few_validation_images_prove_no_other_order(classes, right):
    for images in (1, 2, 5):
        rng, counts = np.random.default_rng(images), np.zeros((classes, classes), int)
        for place in np.repeat(np.arange(classes), images):
            counts[place, place if rng.random() < right else rng.integers(classes)] += 1
        check_order("a.pth", counts, tuple(map(str, range(classes))))


def test_swallowed_classes_are_no_other_order():
    counts = confusion(range(100), 0.6, classes=100)
    for weak, strong in ((3, 4), (10, 11)):
        counts[weak] = counts[strong] = 0
        counts[weak, [weak, strong, 50]] = 4, 32, 14
        counts[strong, [strong, weak, 60]] = 25, 5, 20
    check_order("a.pth", counts, tuple(map(str, range(100))))


def test_confused_classes_are_no_other_order():
    counts = confusion(range(10))
    counts[1] = 0
    counts[1, 0] = 50  # all of class 1 is called class 0, which keeps its own
    check_order("a.pth", counts, tuple("abcdefghij"))


@each_of(("shifts", "right", "asked", "kept"), [
    (False, {False: 3, True: 9}, [False, True], True),
    (False, {False: 9, True: 3}, [False, True], False),
    (False, {False: 9, True: 9}, [False, True], False),
    (True, {True: 3}, [True], True),
    (None, {None: 3}, [None], None),
])  # fmt: skip
def test_network_of_a_file_gets_the_better_input(shifts, right, asked, kept):
    model, seen = torch.nn.Identity(), []
    if shifts is not None:
        model.transform_input = shifts

    def measure():
        seen.append(getattr(model, "transform_input", None))
        return np.diag([right[seen[-1]]])

    assert best_input(model, measure).trace() == max(right.values())
    assert (seen, getattr(model, "transform_input", None)) == (asked, kept)


def test_teacher_at_chance_stops_the_run(tmp_path):
    """A file without names whose outputs stand in another order: the dearest of the silent errors of this field."""
    changes = {
        "pretrain.model": "convnet2_w16", "pretrain.epochs": 4, "data.classes": tuple("0123"),
        "runtime.precision": "fp32",
    }  # fmt: skip
    store, runtime = ArtifactStore(str(tmp_path / "store")), Runtime.create(RuntimeConfig(device="cpu"))

    def run(more):
        config = override(recipe("digits"), changes | more)
        index, ref = load_index(config, store, lambda done, total: None)
        planned = plan_from(config, index, ref).tasks["pretrain"][0].units[0]
        unit = Unit(planned.ref.unit, planned.params, lambda name: index)
        return [*PRETRAIN.run(config.pretrain, [unit], SeedTree(0), runtime)][-1].value

    learned, path = run({}), str(tmp_path / "bare.pth")
    assert learned.top1 > 0.9
    torch.save(learned.weights, path)
    assert run({"pretrain.checkpoint": path}).top1 == learned.top1
    torch.save({key: value.roll(1, 0) if "head" in key else value for key, value in learned.weights.items()}, path)
    with pytest.raises(ConfigError, match=r"4 of 4 classes stand at another place .* images of 0 1 and those of 1 2"):
        run({"pretrain.checkpoint": path})
    torch.save({key: value * ("head" not in key) for key, value in learned.weights.items()}, path)
    with pytest.raises(ConfigError, match=r"names \d+\.\d% of the validation images right, and chance 25\.0%"):
        run({"pretrain.checkpoint": path})


@each_of(("classes", "least"), [(2, 5 / 9), (3, 1 / 3 + 2 / 27), (10, 0.2), (1000, 0.002)])
def test_chance_is_exceeded_for_few_classes_too(classes, least):
    """Twice chance would be everything right for a set of two classes."""
    assert hardly(classes) == pytest.approx(least)


def test_trained_teacher_at_chance_is_noted(tmp_path):
    config = override(recipe("digits"), {"pretrain.model": "convnet2_w16", "pretrain.epochs": 1, "pretrain.lr": 1e-9})
    store, told = ArtifactStore(str(tmp_path / "store")), []
    plan = plan_from(config, *load_index(config, store, lambda done, total: None))
    for event in run_stage(plan.tasks["pretrain"][0], store, Runtime.create(RuntimeConfig(device="cpu"))):
        told.append((event.kind, event.text))
    assert told[-2][0] == "note"
    assert re.match(r"teacher names \d+\.\d% of the validation images right, and chance 10\.0%: .*epochs", told[-2][1])
    assert told[-1][0] == "unit"
