"""A teacher may be that of its best epoch, also when its training was interrupted after it."""

import pytest

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.load_index import load_index
from wmdd.engine.plan import plan_from
from wmdd.outputs import Output, Snapshot
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import Unit
from wmdd.stages.plans.pretrain import PRETRAIN
from wmdd.storage.store import ArtifactStore

# With this rate the first epoch is the best and the last is far below it.
HOT = {
    "pretrain.model": "convnet2_w16",
    "pretrain.epochs": 3,
    "pretrain.lr": 0.5,
    "pretrain.warmup_epochs": 2.5,
    "data.classes": ("0", "1", "2"),
    "runtime.precision": "fp32",
    "runtime.train_threads": 1,
}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    store = ArtifactStore(str(tmp_path_factory.mktemp("store")))

    def run(keep, resume=None, **changes):
        config = override(recipe("digits"), {**HOT, "pretrain.keep": keep, **changes})
        index, ref = load_index(config, store, lambda done, total: None)
        planned = plan_from(config, index, ref).tasks["pretrain"][0].units[0]
        unit = Unit(planned.ref.unit, planned.params, lambda name: index, resume)
        return list(PRETRAIN.run(config.pretrain, [unit], SeedTree(0), Runtime.create(config.runtime)))

    return run


def teacher(news):
    (value,) = [item.value for item in news if isinstance(item, Output)]
    return value


def test_best_and_last_are_of_the_validated_epochs(train):
    best, last = teacher(train("best")), teacher(train("last"))
    curve = [epoch["top1"] for epoch in best.curve]
    assert max(curve) > curve[-1], "the case tells nothing"
    assert (best.top1, last.top1) == (max(curve), curve[-1])
    assert len(curve) == HOT["pretrain.epochs"]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_score_is_that_of_the_averaged_weights(train, keep):
    averaged = teacher(train(keep, **{"pretrain.ema": 0.5}))
    curve = [epoch["top1_ema"] for epoch in averaged.curve]
    assert curve != [epoch["top1"] for epoch in averaged.curve], "the case tells nothing"
    assert averaged.top1 == (max(curve) if keep == "best" else curve[-1])


def test_best_outlives_an_interruption(train):
    whole = train("best")
    snapshots = [news.data for news in whole if isinstance(news, Snapshot)]
    assert len(snapshots) == HOT["pretrain.epochs"], "one before the first step, and one after each epoch but the last"
    for snapshot in snapshots:
        assert teacher(train("best", snapshot)).to_files() == teacher(whole).to_files()
