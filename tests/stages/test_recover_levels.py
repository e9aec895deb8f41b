"""A search cuts recovery short, and goes on for the settings that do well."""

import pytest
from recoveries import IPC, STEPS, assert_same_images, filled, group, images, notes, run, undisturbed

WAYS = {"whole": ({}, 1000), "halves": ({}, 2 * IPC), "parts": ({"images_at_once": 2}, 1000)}


@pytest.fixture
def store(tmp_path):
    return filled(tmp_path / "store")


@pytest.mark.parametrize("way", WAYS)
def test_more_steps_go_on_from_fewer(way, store, tmp_path):
    params, holds = WAYS[way]
    task = group(**params)
    other, expected_steps = undisturbed(task, tmp_path, holds=holds)
    steps = [run(group(**params, **part), store, holds=holds)[1] for part in ({"steps": 2}, {"steps": 3}, {})]
    assert steps == [expected_steps * part // STEPS for part in (2, 1, 3)]
    assert images(task, store) == images(task, other)
    assert notes(store) == []


def test_lost_snapshot_of_fewer_steps_costs_only_time(store, tmp_path):
    run(group(steps=2), store)
    store.folder.remove(*notes(store))
    _, steps = run(group(), store)
    assert steps == STEPS
    assert_same_images(group(), store, tmp_path)


def test_snapshot_of_more_steps_is_ignored_by_fewer(store, tmp_path):
    run(group(), store, kill_after=3)
    events, steps = run(group(steps=2), store)
    (text,) = [event.text for event in events if event.kind == "note"]
    assert "is ignored (it is of a longer optimisation)" in text
    assert steps == 2
    assert_same_images(group(steps=2), store, tmp_path)


def test_killed_group_of_a_later_level_goes_on(store, tmp_path):
    run(group(steps=2), store)
    steps = 0
    for _ in range(STEPS - 2):
        events, more = run(group(), store, kill_after=1)
        assert not [event for event in events if event.kind == "note"]
        steps += more
    assert steps == STEPS - 2
    assert_same_images(group(), store, tmp_path)
    assert notes(store) == []
