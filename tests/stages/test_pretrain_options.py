"""Options of the teacher's training through the whole stage."""

import pytest
from builders import CPU

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.load_index import load_index
from wmdd.engine.plan import plan_from
from wmdd.outputs import Output, Snapshot
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.storage.store import ArtifactStore

OPTIONS = {
    "views": {
        "pretrain.augment": "trivialaugment", "pretrain.mix": "cutmix", "pretrain.erase": 0.5,
        "pretrain.repeated_augmentation": 2,
        "pretrain.clip_norm": 1.0, "pretrain.ema": 0.9, "pretrain.label_smoothing": 0.1, "pretrain.keep": "best",
    },
    "steps": {
        "pretrain.augment": "randaugment", "pretrain.augment_strength": 5, "pretrain.mix": "either",
        "pretrain.schedule": "steps", "pretrain.lr_step_epochs": 1, "pretrain.lr_gamma": 0.5,
        "pretrain.optimizer": "rmsprop", "pretrain.lr": 0.001, "pretrain.norm_weight_decay": 0.0,
        "pretrain.ema": 0.9, "pretrain.ema_every": 4,
    },
}  # fmt: skip


def pretraining(folder, changes):
    """Return a function from a snapshot, or None, to the stage's events."""
    config, store = override(recipe("digits"), changes), ArtifactStore(str(folder))
    index, ref = load_index(config, store, lambda done, total: None)
    planned = plan_from(config, index, ref).tasks["pretrain"][0].units[0]

    def run(snapshot=None):
        unit = Unit(planned.ref.unit, planned.params, lambda name: index, snapshot)
        return list(STAGES["pretrain"].run(config.pretrain, [unit], SeedTree(0), CPU))

    return run


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_interrupted_teacher_is_the_same(tmp_path, options):
    changes = {"data.classes": ("0", "1", "2"), "pretrain.model": "convnet2_w16", "pretrain.epochs": 3}
    run = pretraining(tmp_path, changes | {"runtime.precision": "fp32"} | OPTIONS[options])
    whole = run()
    snapshots = [event.data for event in whole if isinstance(event, Snapshot)]
    files = [event.value.to_files() for event in (*whole, *run(snapshots[0])) if isinstance(event, Output)]
    assert len(files) == 2
    assert files[0] == files[1]


def test_augment_strength_reaches_the_views(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "wmdd.stages.pretrain.augmentation",
        lambda name, pixels, strength: (calls.append((name, strength)), lambda images: images)[1],
    )
    changes = {"data.classes": ("0", "1"), "pretrain.model": "convnet1_w8", "pretrain.epochs": 1}
    pretraining(tmp_path, changes | {"pretrain.augment": "randaugment", "pretrain.augment_strength": 5})()
    assert calls == [("randaugment", 5)]
