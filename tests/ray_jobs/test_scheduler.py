"""The tasks of a run on simulated workers: each runs once, and again elsewhere if its worker is lost."""

import collections
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import Run, task, tasks

from wmdd.errors import StageError


def test_every_task_runs_once_over_all_workers():
    run = Run(tasks(12), {"a": 2, "b": 2}, start_s=5).go()
    assert set(run.starts().values()) == {1}
    assert sorted(run.units("done")) == sorted(item.name for item in tasks(12))
    assert run.workers.clock_s == pytest.approx(5 + 3 * 10)
    assert collections.Counter(node for _, node, _ in run.workers.assigned) == {"a": 6, "b": 6}


def test_class_does_not_wait_for_others_of_its_stage():
    items = [task("slow"), task("fast"), task("after-fast", "fast"), task("after-slow", "slow")]
    run = Run(items, {"a": 2}, lambda item, node: 100 if item.name == "slow" else 10).go()
    begun = {item.name: moment for moment, _, item in run.workers.assigned}
    assert begun["after-fast"] == pytest.approx(11)
    assert begun["after-slow"] == pytest.approx(101)


def test_task_of_a_lost_worker_is_retried_elsewhere():
    run = Run(tasks(6), {"a": 2}, start_s=1)
    run.workers.at(5, lambda: run.workers.kill(0))
    run.go()
    assert run.starts()["class-0"] + run.starts()["class-1"] == 3
    assert len(run.units("retry")) == 1
    assert len(run.units("done")) == 6
    (text,) = [event.text for event in run.events if event.kind == "retry"]
    assert "its worker on a died (killed); it starts again" in text


def test_task_that_always_kills_its_worker_fails_alone():
    items = tasks(8)
    run = Run(items, {"a": 2}, attempts=3)
    assign = run.workers.assign

    def poisoned(worker, item):
        assign(worker, item)
        if item.name == "class-1":
            run.workers.at(run.workers.clock_s + 1, lambda: run.workers.kill(worker))

    run.workers.assign = poisoned
    run.go()
    assert run.starts()["class-1"] == 3
    assert len(run.units("done")) == 7
    (failure,) = run.board.failures
    assert (failure.stage, failure.unit) == ("recover", "class-1")
    assert "died (killed), 3 times; is memory too small?" in failure.cause


def test_node_that_leaves_costs_its_tasks_no_attempt():
    run = Run(tasks(2), {"spot-0": 2}, 30.0, attempts=1)
    for number in range(6):
        run.workers.at(5 + 20 * number, lambda number=number: run.workers.leave(f"spot-{number}"))
        run.workers.at(6 + 20 * number, lambda number=number: run.workers.join(f"spot-{number + 1}", 2))
    run.go()
    assert run.board.failures == []
    assert len(run.units("retry")) >= 4
    assert sorted(run.units("done")) == ["class-0", "class-1"]


def test_silent_task_is_retried_on_another_worker():
    hung = []

    def seconds(item, node):
        if item.name == "class-0" and not hung:
            hung.append(node)
            return math.inf
        return 10

    run = Run(tasks(3), {"a": 2}, seconds, silence_s=60).go()
    assert run.starts() == {"class-0": 2, "class-1": 1, "class-2": 1}
    assert len(run.units("done")) == 3
    assert any("no message for 60 s" in event.text for event in run.events if event.kind == "retry")


def test_task_that_always_hangs_fails_in_the_end():
    run = Run(tasks(2), {"a": 2}, lambda item, node: math.inf if item.name == "class-0" else 1, silence_s=60).go()
    (failure,) = run.board.failures
    assert "no message for 60 s, 3 times" in failure.cause
    assert run.units("done") == ["class-1"]


def test_interrupted_run_requests_snapshots():
    run = Run(tasks(4), {"a": 3}, lambda item, node: 10 if item.name == "class-0" else 1000, start_s=5)

    def interrupt():
        raise KeyboardInterrupt

    run.workers.at(100, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    assert len(run.workers.snapshots) == 3
    assert {run.workers.present[number].task.name for number in run.workers.snapshots} == {
        "class-1",
        "class-2",
        "class-3",
    }


def test_only_an_error_that_may_pass_is_retried():
    for passing, starts in ((False, 1), (True, 3)):
        error = StageError("recover", "class-00001", "broken", passing)
        run = Run(tasks(4), {"a": 2}, error=lambda item, error=error: error if item.name == "class-1" else None).go()
        assert run.starts()["class-1"] == starts
        assert run.board.failures[0].unit == "class-00001"
        assert "broken" in run.board.failures[0].cause
        assert len(run.units("done")) == 3


@settings(deadline=None)
@given(st.data())
def test_no_chaos_loses_or_repeats_a_result(data):
    names = [f"t{number}" for number in range(data.draw(st.integers(1, 12)))]
    items = [
        task(name, *(data.draw(st.lists(st.sampled_from(names[:place]), max_size=2, unique=True)) if place else ()))
        for place, name in enumerate(names)
    ]
    durations = data.draw(st.lists(st.floats(0.1, 50), min_size=len(names), max_size=len(names)))
    length = dict(zip(names, durations, strict=True))
    run = Run(items, {"a": 2, "b": 1}, lambda item, node: length[item.name], attempts=50)

    def strike():
        if run.workers.present:
            run.workers.kill(min(run.workers.present))

    for moment in data.draw(st.lists(st.floats(0, 60), max_size=8)):
        run.workers.at(moment, strike)
    for number, moment in enumerate(data.draw(st.lists(st.floats(0, 60), max_size=3))):
        run.workers.at(moment, lambda: run.workers.leave("a"))
        run.workers.at(moment + 1, lambda number=number: run.workers.join(f"new-{number}", 2))
    run.go()
    assert sorted(run.units("done")) == sorted(names)
    assert run.board.failures == []
