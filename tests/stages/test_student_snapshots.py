"""When a student leaves snapshots: by the time since the last one, not at each validation."""

import pytest
import torch
from builders import CPU, small_set

from wmdd.config.students import EvaluateConfig, RelabelConfig
from wmdd.data.geometry import Geometry
from wmdd.data.scan import build_index
from wmdd.method.artifacts import DistilledClass
from wmdd.outputs import Progress, Snapshot, SnapshotClock
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.plans.evaluate import Params
from wmdd.storage.artifact import unpack

EPOCHS, SIZE = 6, 8


@pytest.fixture
def train(tmp_path):
    """A function that trains a student for six epochs, of which the second, fourth and sixth are validated."""
    pixels = torch.randint(0, 256, (2, 2, 3, SIZE, SIZE), generator=SeedTree(1).torch(), dtype=torch.uint8)
    classes = [DistilledClass(class_id, pixels[class_id], torch.full((2,), 0.5)) for class_id in range(2)]
    inputs = {"index": build_index(small_set(tmp_path)), "classes": classes}
    views = RelabelConfig(epochs=EPOCHS, batch_size=2, mix="none")
    params = Params("convnet1_w8", 0, "distilled", Geometry(SIZE, 1.0, "half"), "wmdd", "hash", views=views)
    unit = Unit("student", params, inputs.__getitem__)
    section = EvaluateConfig(labels="hard", val_every=2)
    return lambda: list(STAGES["evaluate"].run(section, [unit], SeedTree(0), CPU))


def epochs_of_snapshots(events):
    return [unpack(event.data)[1]["epoch"] for event in events if isinstance(event, Snapshot)]


def test_validations_leave_no_snapshot_before_it_is_due(train):
    events = train()
    assert [event.done for event in events if isinstance(event, Progress)] == [2, 4, 6]
    assert epochs_of_snapshots(events) == []


@pytest.mark.parametrize("due", [{1, 3}, {2}, {1, 2, 3, 4, 5, 6}])
def test_snapshots_are_those_that_are_due_and_the_clock_measures_them(due, train, monkeypatch):
    epochs, calls = iter(range(1, EPOCHS + 1)), []
    monkeypatch.setattr(SnapshotClock, "is_due", lambda clock: next(epochs) in due)
    monkeypatch.setattr(SnapshotClock, "begin", lambda clock: calls.append("begin"))
    monkeypatch.setattr(SnapshotClock, "end", lambda clock: calls.append("end"))
    expected = sorted(due - {EPOCHS})
    assert epochs_of_snapshots(train()) == expected
    assert calls == ["begin", "end"] * len(expected)


def test_first_snapshot_waits_by_its_size(train, monkeypatch):
    sizes = []
    monkeypatch.setattr("wmdd.stages.evaluate.SnapshotClock", lambda size: sizes.append(size) or SnapshotClock(size))
    monkeypatch.setattr(SnapshotClock, "is_due", lambda clock: True)
    snapshot = next(event.data for event in train() if isinstance(event, Snapshot))
    assert sizes[0] == pytest.approx(len(snapshot), rel=0.5)  # and its names and numbers, which matter in one so small
