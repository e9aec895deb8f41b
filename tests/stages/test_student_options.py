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
    "falling": {"temperature_decay": 0.5, "temperature_every": 1},
    "fitted": {"student_temperature": "fitted"},
    "fitted, sgd": {"optimizer": "sgd", "lr": 0.1, "student_temperature": "fitted"},
    "squared": {"optimizer": "sgd", "temperature_squared": True},
    "all": {"optimizer": "muon", "student_temperature": "fitted", "temperature_decay": 0.5, "temperature_every": 1},
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
    assert ("loss.log_ratio" in unpack(snapshots[0])[0]) is ("student_temperature" in OPTIONS[name])
    weights, default = ({k: v for k, v in unpack(s[-1])[0].items() if "network" in k} for s in (snapshots, plain))
    assert weights.keys() == default.keys()
    assert not all(torch.equal(weights[key], default[key]) for key in weights)


def test_fitted_temperature_moves_and_goes_on(train):
    snapshots, _ = train(EvaluateConfig(student_temperature="fitted", student_temperature_lr=0.1))
    values = [float(unpack(snapshot)[0]["loss.log_ratio"]) for snapshot in snapshots]
    assert len(set(values)) == len(values) == EPOCHS - 1
    assert all(0.01 < abs(value) < 0.1 * 2 * EPOCHS for value in values)  # two steps an epoch, of 0.1 at most
