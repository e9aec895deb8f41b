"""A student goes on from a snapshot bit for bit, whatever it is trained with."""

from dataclasses import replace

import pytest
import torch
from builders import CPU, normal, small_set
from tables import each_of

from wmdd.config.students import EvaluateConfig, RelabelConfig
from wmdd.data.geometry import Geometry
from wmdd.data.scan import build_index
from wmdd.method.artifacts import DistilledClass
from wmdd.method.label_batches import draw_epoch
from wmdd.method.soft_labels import LabelBlock
from wmdd.outputs import Output, Snapshot, SnapshotClock
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.plans.evaluate import Params
from wmdd.storage.artifact import unpack

EPOCHS, IPC, CLASSES, SIZE = 4, 4, 2, 8
OPTIONS = {
    "muon": {"optimizer": "muon"},
}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A function that trains a student of random images and labels; returns its snapshots and its score."""
    monkeypatch.setattr(SnapshotClock, "is_due", lambda clock: True)
    pixels = torch.randint(0, 256, (CLASSES, IPC, 3, SIZE, SIZE), generator=SeedTree(1).torch(), dtype=torch.uint8)
    classes = [DistilledClass(class_id, pixels[class_id], torch.full((IPC,), 1 / IPC)) for class_id in range(CLASSES)]
    relabel = RelabelConfig(epochs=EPOCHS, batch_size=4)
    drawn = (draw_epoch(relabel, epoch, IPC * CLASSES, SIZE, SeedTree(2)) for epoch in range(EPOCHS))
    batches = [batch for epoch in drawn for batch in epoch]
    batches = [replace(batch, logits=(5 * normal(4, CLASSES, seed=seed)).half()) for seed, batch in enumerate(batches)]
    meta = {"first_epoch": 0, "epochs": EPOCHS, "batches": IPC * CLASSES // 4, "classes": CLASSES}
    labels = [LabelBlock.write(batches, meta)]
    inputs = {"index": build_index(small_set(tmp_path)), "classes": classes, "labels": labels}
    params = Params("convnet2_w8", 0, "distilled", Geometry(SIZE, 1.0, "half"), "wmdd", "hash")

    def run(section, resume=None):
        unit = Unit("student", params, inputs.__getitem__, resume)
        events = list(STAGES["evaluate"].run(section, [unit], SeedTree(0), CPU))
        snapshots = [event.data for event in events if isinstance(event, Snapshot)]
        return snapshots, [event.value for event in events if isinstance(event, Output)]

    return run


@each_of("name", list(OPTIONS))
def test_interrupted_student_is_the_same(name, train):
    section = EvaluateConfig(val_every=2, **OPTIONS[name])
    snapshots, results = train(section)
    rest, others = train(section, snapshots[0])
    assert rest == snapshots[1:]
    assert others == results
    plain, _ = train(EvaluateConfig(val_every=2))
    weights, default = ({k: v for k, v in unpack(s[-1])[0].items() if "network" in k} for s in (snapshots, plain))
    assert weights.keys() == default.keys()
    assert not all(torch.equal(weights[key], default[key]) for key in weights)
