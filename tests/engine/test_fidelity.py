"""Cheaper forms of a run: the same images, reached in parts; fewer classes; a split of training images to score on."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import contents
from hypothesis import given
from hypothesis import strategies as st

from wmdd.config.distill import override
from wmdd.config.fidelity import WHOLE, Fidelity
from wmdd.data.index import hold_out
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.engine.config_file import read_config
from wmdd.engine.plan import plan_from
from wmdd.engine.run import LocalExecutor, load_value, run_plan
from wmdd.errors import DataError
from wmdd.stages.plans.recover import Params
from wmdd.storage.store import ArtifactStore

RECOVERS = ("progress", "recover")
LEVELS = (Fidelity(0.5, 0.3, 0.5), Fidelity(1.0, 0.6, 0.5), WHOLE)


@given(st.integers(1, 60), st.lists(st.floats(0.01, 1), min_size=2, max_size=2))
def test_groups_of_a_smaller_share_are_in_a_larger(count, shares):
    few, many = (Fidelity(classes=share).groups(count) for share in sorted(shares))
    assert set(few) <= set(many) <= set(range(count))
    assert len(many) >= count * max(shares) - 1e-9
    assert WHOLE.groups(count) == list(range(count))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1])
def test_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="1 at most"):
        Fidelity(iterations=share)


@pytest.mark.slow
def test_images_reached_by_levels_are_undisturbed(tiny_run, tmp_path):
    config = read_config(str(tiny_run.run / "config.yaml"))
    store = ArtifactStore(str(tmp_path / "store"))
    index, ref = load_index(config, store, lambda done, total: None)
    made, events = [], []
    for number, level in enumerate(LEVELS):
        plan = plan_from(config, index, ref, level)
        run_plan(plan, store, LocalExecutor(config.runtime), lambda event, at=number: events.append((at, event)))
        made.append({unit.ref.unit: unit for unit in plan.units("recover")})
    assert [len(units) for units in made] == [5, 10, 10]
    assert [units["class-00000"].params for units in made] == [Params(0, steps=3), Params(0, steps=6), Params(0)]
    assert [units["class-00000"].whole for units in made] == [made[2]["class-00000"].ref] * 2 + [None]
    steps = [(at, event.unit, event.begun) for at, event in events if (event.kind, event.stage) == RECOVERS]
    few, others = "class-00000..class-00004", "class-00005..class-00009"
    assert set(steps) == {(0, few, 0), (1, few, 3), (1, others, 0), (2, few, 6), (2, others, 6)}
    assert len([event for _, event in events if (event.kind, event.stage) == ("begin", "pretrain")]) == 1
    assert not [item["name"] for item in store.folder.entries("notes") if "resume-recover" in item["name"]]
    assert contents(tiny_run.store).items() <= contents(store.url).items()
    assert len([key for key in contents(store.url) if key[0] == "evaluate"]) == 3 * 6


@pytest.mark.slow
def test_students_of_some_classes_are_scored_on_these(tiny_run, tmp_path):
    changes = {"recover.classes_per_batch": 1, "evaluate.baselines": (), "relabel.epochs": 2}
    config = override(read_config(str(tiny_run.run / "config.yaml")), changes)
    store = ArtifactStore(str(tmp_path / "store"))
    plan = plan_from(config, *load_index(config, store, lambda done, total: None), Fidelity(classes=0.1))
    run_plan(plan, store, LocalExecutor(config.runtime), lambda event: None)
    own = int((plan.index.val.label == 0).sum())
    assert [unit.params.class_ids for unit in plan.units("evaluate")] == [(0,), (0,)]
    for ref in plan.refs("evaluate"):
        right = load_value(ref, store).top1_last * own
        assert right == pytest.approx(round(right))  # a share of the class's own validation images


def test_held_out_images_are_not_trained_on():
    index = build_index("builtin:digits")
    part = hold_out(index, 0.1)
    assert part.val_held_out
    for class_id in range(10):
        before, left, held = (split.row[split.of_class(class_id)] for split in (index.train, part.train, part.val))
        assert sorted([*left, *held]) == sorted(before)
        assert len(held) == int(np.ceil(len(before) * 0.1))
    assert not {*part.val.row} & {*index.val.row}
    assert (hold_out(index, 0.1).digest("val"), hold_out(index, 0.1).digest("train")) == (
        part.digest("val"), part.digest("train"),
    )  # fmt: skip


def test_class_of_one_image_cannot_be_split():
    index = build_index("builtin:digits")
    single = index.train.take(index.train.of_class(3)[:1])
    with pytest.raises(DataError, match="one training image, none can be held out"):
        hold_out(replace(index, train=single), 0.1)
