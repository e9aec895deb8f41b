"""Snapshots of a group: when they are due, whose they are, and which of them are ignored."""

import pytest
import torch
from recoveries import SECTION, STEPS, assert_same_images, filled, flip, group, notes, run

from wmdd.engine.snapshots import ResumeNote
from wmdd.outputs import Snapshot, SnapshotClock
from wmdd.storage.artifact import pack
from wmdd.storage.store import ArtifactRef


@pytest.fixture
def store(tmp_path):
    return filled(tmp_path / "store")


DAMAGE = {
    "flipped": flip,
    "cut": lambda data: data[: len(data) // 2],
    "head": lambda data: data[:20],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_snapshot_is_ignored_with_one_note(damage, store, tmp_path):
    run(group(), store, kill_after=3)
    (path,) = notes(store)
    store.folder.write(path, DAMAGE[damage](store.folder.read(path)))
    events, steps = run(group(), store)
    (text,) = [event.text for event in events if event.kind == "note"]
    assert "class-0..class-3 is ignored (it is damaged)" in text
    assert steps == STEPS
    assert_same_images(group(), store, tmp_path)
    assert notes(store) == []


def snapshot_of(folder, task):
    other = filled(folder)
    run(task, other, kill_after=2)
    return ResumeNote(other, [unit.ref for unit in task.units], [task.units[0].ref]).read()


FOREIGN = {
    "of a student": lambda folder: pack({"network.weight": torch.zeros(2)}, {"epoch": 1, "step": 2}),
    "of fewer classes": lambda folder: snapshot_of(folder, group(classes=(0, 1))),
    "in parts": lambda folder: snapshot_of(folder, group(images_at_once=2)),
    "of a longer one": lambda folder: snapshot_of(folder, group(SECTION.model_copy(update={"iterations": 200}))),
    "with more terms": lambda folder: snapshot_of(folder, group(SECTION.model_copy(update={"l2_weight": 1.0}))),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_snapshot_is_ignored_with_one_note(kind, store, tmp_path):
    refs = [unit.ref for unit in group().units]
    ResumeNote(store, refs, refs).write(Snapshot(FOREIGN[kind](tmp_path / "foreign")))
    events, steps = run(group(), store)
    assert len([event.text for event in events if event.kind == "note" and "is ignored" in event.text]) == 1
    assert steps == STEPS
    assert notes(store) == []


def test_other_configuration_finds_no_snapshot(store):
    run(group(), store, kill_after=3)
    _, steps = run(group(SECTION.model_copy(update={"lr": 0.2}), key="other"), store)
    assert steps == STEPS


def test_snapshots_of_units_and_groups_differ_in_name(store):
    one, two = (ArtifactRef("recover", f"class-{c}", f"r{c}") for c in range(2))
    for number, refs in enumerate(([one], [two], [one, two], [two, one])):
        note = ResumeNote(store, refs, refs)
        assert note.read() is None
        note.write(Snapshot(bytes([number])))
        assert ResumeNote(store, refs, refs).read() == bytes([number])


@pytest.mark.parametrize(("finished", "seconds"), [(False, 40.0), (True, 10.0)])
def test_seconds_before_an_interruption_count_and_those_of_fewer_steps_do_not(store, monkeypatch, finished, seconds):
    now = [100.0]
    monkeypatch.setattr("wmdd.engine.snapshots.time.perf_counter", lambda: now[0])
    refs = [ArtifactRef("recover", "class-0", "r")]
    note = ResumeNote(store, refs, refs)
    now[0] = 130.0
    note.write(Snapshot(b"half"), finished=finished)
    later = ResumeNote(store, refs, refs)
    assert later.read() == b"half"
    now[0] = 140.0
    assert later.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("size", "cost", "expected"),
    [(0, 0.1, [5, 36, 67, 98]), (0, 9.0, [5, 914, 1823, 2732]), (200_000_000, 0.5, [100, 151, 202, 253])],
)
def test_snapshots_are_as_rare_as_their_cost_asks(monkeypatch, size, cost, expected):
    now = [0.0]
    monkeypatch.setattr("wmdd.outputs.time.monotonic", lambda: now[0])
    clock, due = SnapshotClock(size), []
    for second in range(3000):
        now[0] = float(second)
        if clock.is_due():
            due.append(second)
            clock.begin()
            now[0] += cost
            clock.end()
    assert due[:4] == expected
