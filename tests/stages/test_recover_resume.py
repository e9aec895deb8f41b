"""A group that is interrupted at any step goes on there, and ends with the images of an undisturbed one."""

import dataclasses

import pytest
import torch
from builders import CPU
from recoveries import (
    IPC,
    SECTION,
    STEPS,
    assert_same_images,
    filled,
    flip,
    group,
    images,
    inputs,
    notes,
    run,
    undisturbed,
)

from wmdd.engine.run import run_stage
from wmdd.errors import StageError, StorageError
from wmdd.method.artifacts import DistilledClass
from wmdd.outputs import SnapshotClock
from wmdd.storage.store import ArtifactRef, ArtifactStore


@pytest.fixture
def store(tmp_path):
    return filled(tmp_path / "store")


WAYS = {
    "whole": ({}, 1000),
    "halves": ({}, 2 * IPC),
    "parts": ({"images_at_once": 2}, 1000),
    "parts cut short in halves": ({"steps": 4, "images_at_once": 2}, 2 * 2),
}


@pytest.mark.parametrize("way", WAYS)
def test_group_killed_at_each_snapshot_ends_alike(way, store, tmp_path):
    params, holds = WAYS[way]
    task = group(**params)
    other, expected_steps = undisturbed(task, tmp_path, holds=holds)
    kills, steps = 0, 0
    while any(unit.ref not in store for unit in task.units):
        seen, more = run(task, store, kill_after=1, holds=holds)
        assert not [event for event in seen if event.kind == "note"]
        steps += more
        kills += 1
        assert kills <= expected_steps
    assert kills >= 4
    assert steps == expected_steps  # no step was computed twice
    assert images(task, store) == images(task, other)
    left = [[store.folder.read(path) for path in notes(store)] for store in (store, other)]
    assert left[0] == left[1]
    assert len(left[0]) == ("steps" in params)  # more steps go on from there


@pytest.mark.parametrize("params", [{}, {"images_at_once": 2}], ids=str)
def test_transport_goes_on_with_the_samples_of_each_step(params, store, tmp_path):
    section = SECTION.model_copy(update={"feature_loss": "transport", "transport_sample": 4})
    task = group(section, **params)
    kills = 0
    while any(unit.ref not in store for unit in task.units):
        run(task, store, kill_after=1)
        kills += 1
    assert kills >= 4
    assert_same_images(task, store, tmp_path)
    assert store.commit_of(task.units[0].ref)["reasons"]["compile"] == section.uncompiled


@pytest.mark.parametrize("params", [{}, {"images_at_once": 2}], ids=str)
def test_mixed_images_go_on_with_the_boxes_of_each_step(params, store, tmp_path):
    task = group(SECTION.model_copy(update={"mix": "cutmix"}), **params)
    while any(unit.ref not in store for unit in task.units):
        run(task, store, kill_after=1)
    assert_same_images(task, store, tmp_path)


def test_resumed_group_says_where_it_goes_on(store):
    run(group(images_at_once=2), store, kill_after=7)  # in the second of two parts
    events, _ = run(group(images_at_once=2), store)
    progress = [event for event in events if event.kind == "progress"]
    first = progress[0]
    assert (first.done, first.total, first.text) == (STEPS + 2, 2 * STEPS, "goes on from a snapshot")
    assert len(progress) > 1
    assert {event.begun for event in progress} == {STEPS + 2}


def test_group_with_saved_units_goes_on_from_snapshot(store, tmp_path):
    task = group()
    other, _ = undisturbed(task, tmp_path)
    store.save(task.units[1].ref, other.load(task.units[1].ref, DistilledClass))
    run(task, store, kill_after=4)
    events, steps = run(task, store)
    assert steps == STEPS - 4
    assert [event.unit for event in events if event.kind == "unit"] == ["class-0", "class-2", "class-3"]
    assert images(task, store) == images(task, other)


def test_two_copies_of_a_task_give_the_images_of_one(store, tmp_path, monkeypatch):
    task = group()
    run(task, store, kill_after=2)
    monkeypatch.setattr(SnapshotClock, "is_due", lambda self: True)
    first, second = (run_stage(task, ArtifactStore(store.url), CPU) for _ in range(2))
    begun = [next(first), next(second)]
    assert [event.kind for event in begun] == ["progress", "progress"]
    list(first)
    list(second)  # its snapshots would stay: the work is finished
    assert_same_images(task, store, tmp_path)
    assert notes(store) == []


def test_unwritable_snapshots_cost_one_note(store, tmp_path, monkeypatch):
    def full(self, name, data):
        raise StorageError(f"{name} cannot be written (No space left on device); make room there")

    monkeypatch.setattr(SnapshotClock, "is_due", lambda self: True)
    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "write_note", full)
        texts = [event.text for event in run_stage(group(), store, CPU) if event.kind == "note"]
    assert len(texts) == 1
    assert "goes on, but cannot leave a snapshot" in texts[0]
    assert_same_images(group(), store, tmp_path)


def test_divergence_before_an_interruption_is_reported(tmp_path):
    _, measured = inputs()
    statistics, atoms = measured[1]
    far = dataclasses.replace(atoms, support=torch.full_like(atoms.support, 1e30))
    store = filled(tmp_path / "store", [measured[0], (statistics, far), *measured[2:]])
    run(group(), store, kill_after=2)
    with pytest.raises(StageError, match=r"recover of class-1 failed: .* at step 0 of 6") as caught:
        run(group(), store)
    assert not caught.value.passing
    assert [unit.ref.unit for unit in group().units if unit.ref not in store] == ["class-1"]
    assert notes(store) == []


def test_unreadable_class_of_a_group_is_named(store):
    ref = ArtifactRef("statistics", "class-2", "s2")
    path = store.folder.path(ref.folder, store.commit_of(ref)["attempt"], "statistics.safetensors")
    store.folder.write(path, flip(store.folder.read(path)))
    with pytest.raises(StageError) as caught:
        run(group(), store)
    assert caught.value.unit == "class-0..class-3"
    assert caught.value.cause.startswith("class-2: ")
    assert "is damaged" in caught.value.cause
