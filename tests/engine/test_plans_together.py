"""Several plans that run as one: what they share runs once, and a failure of one leaves the others alone."""

import pytest

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_method
from wmdd.engine.plan import make_plan
from wmdd.engine.run import LocalExecutor, run_plans
from wmdd.errors import StageError
from wmdd.storage.store import ArtifactStore

TINY = {
    "pretrain.model": "convnet2_w16",
    "pretrain.epochs": 1,
    "ipc": 1,
    "relabel.epochs": 1,
    "evaluate.students": ["convnet2_w16"],
    "evaluate.num_students": 1,
    "evaluate.baselines": (),
}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def plans(store):
    config = override(recipe("digits"), TINY)
    return {name: make_plan(with_method(config, name), store) for name in ("random", "herding")}


def run(plans, store):
    events = []
    try:
        run_plans(plans, store, LocalExecutor(plans["random"].config.runtime), events.append)
    finally:
        told = {kind: [event for event in events if event.kind == kind] for kind in ("stage", "unit", "end", "done")}
        run.told = told
    return told


def test_shared_units_run_once_under_each_plan(plans, store):
    told = run(plans, store)
    refs = {ref for plan in plans.values() for stage in plan.tasks for ref in plan.refs(stage)}
    assert not store.absent(refs)
    assert len(told["unit"]) == len(refs)
    assert [event.unit for event in told["unit"] if event.stage == "pretrain"] == ["random/teacher"]
    assert {event.unit.partition("/")[0] for event in told["unit"] if event.stage == "evaluate"} == {*plans}
    totals = {event.stage: event.total for event in told["stage"]}
    assert totals["evaluate"] == 2
    assert totals["select"] == 20
    assert [(event.stage, event.done) for event in told["end"]].count(("evaluate", 2)) == 1
    again = run(plans, store)
    assert again["unit"] == again["done"] == []
    assert {event.stage for event in again["end"]} == {stage for stage, total in totals.items() if total}


def test_students_of_all_data_are_trained_last(store):
    config = override(recipe("digits"), TINY | {"evaluate.students": ["convnet2_w16", "convnet2_w8"]})
    told = run({"random": make_plan(config, store)}, store)
    done = [(event.stage, event.unit) for event in told["done"]]
    assert (done[0], done[-1]) == (("pretrain", "random/teacher"), ("pretrain", "random/full-convnet2_w8"))
    assert {stage for stage, _ in done[1:-1]} == {"statistics", "barycenter", "recover", "relabel", "evaluate"}


def test_failure_of_one_plan_leaves_the_other_alone(plans, store, monkeypatch):
    def broken(*args):
        raise RuntimeError("no herd today")

    monkeypatch.setattr("wmdd.stages.select.herd", broken)
    with pytest.raises(StageError, match=r"select of herding/herding-class-00000 \(0\).* failed: .*no herd today"):
        run(plans, store)
    tasks = plans["random"].tasks
    assert not store.absent(ref for stage in tasks for ref in plans["random"].refs(stage))


def test_stage_ends_once_with_late_workers(plans, store):
    class Late(LocalExecutor):
        """Reports tasks as done after the units of all were reported, as parallel workers do."""

        def run(self, tasks, missing, store, listener):
            late = []
            board = super().run(tasks, missing, store, lambda e: late.append(e) if e.kind == "done" else listener(e))
            for event in late:
                listener(event)
            return board

    events = []
    run_plans(plans, store, Late(plans["random"].config.runtime), events.append)
    ends = [event.stage for event in events if event.kind == "end"]
    assert sorted(ends) == ["evaluate", "pretrain", "relabel", "select", "statistics"]
