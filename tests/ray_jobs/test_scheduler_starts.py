"""How many workers the scheduler starts and ends, and what it does where they do not start."""

import collections
import math

import pytest
from simulated import Run, task, tasks

from ray_jobs.workers import Message
from wmdd.errors import ConfigError, WmddError


def test_workers_are_bounded_by_tasks_and_limit():
    few = Run(tasks(2), {"a": 8})
    few.workers.at(3, lambda: few.__setattr__("seen", len(few.workers.present)))
    assert few.go().seen == 2
    limited = Run(tasks(9), {"a": 8}, limits={"main": 3}).go()
    assert limited.workers.clock_s == pytest.approx(1 + 30)


def test_no_more_workers_are_requested_than_a_ray_that_cannot_grow_holds():
    run = Run(tasks(9), {"a": 2}, limits={"main": 7})
    run.workers.at(3, lambda: run.__setattr__("seen", (len(run.workers.present), len(run.workers.waiting))))
    assert run.go().seen == (2, 0)


@pytest.mark.parametrize("at_once", [(), ("main",)])
def test_node_that_joins_gets_tasks(at_once):
    run = Run(tasks(10), {"a": 1}, at_once=at_once)
    run.workers.at(15, lambda: run.workers.join("b", 4))
    run.go()
    assert collections.Counter(node for _, node, _ in run.workers.assigned)["b"] >= 6
    assert {"a": 1, "b": 4} in [event.metrics for event in run.events if event.kind == "workers"]


def test_no_capacity_is_an_error_after_start_timeout():
    run = Run(tasks(2), {}, start_timeout_s=45)
    with pytest.raises(ConfigError, match=r"ray\.start_timeout_s=45: no worker could start .*0 simulated nodes"):
        run.scheduler.run(run.board)
    assert 45 <= run.workers.clock_s < 50


def test_node_that_joins_within_start_timeout_is_used():
    run = Run(tasks(2), {}, start_timeout_s=600)
    run.workers.at(500, lambda: run.workers.join("late", 2))
    assert len(run.go().units("done")) == 2


def test_workers_that_never_start_end_the_run():
    run = Run(tasks(2), {"a": 1}, start_s=1, start_timeout_s=1000)
    start = run.workers.start

    def fail_to_start(kind):
        number = start(kind)
        run.workers.at(run.workers.clock_s + 0.5, lambda: run.workers.kill(number))
        return number

    run.workers.start = fail_to_start
    with pytest.raises(WmddError, match="8 times in a row no worker started: killed"):
        run.scheduler.run(run.board)
    assert run.workers.clock_s > 60  # ever more slowly, so that what is out of order for a moment may come back


def fail_starts(workers, node, kind="lost", error=None):
    """End workers on a node as they start."""
    end_start = workers.end_start

    def ended(number):
        worker = workers.present.get(number)
        is_bad = worker is not None and worker.node == node
        return Message(number, kind, text="no wmdd", error=error) if is_bad else end_start(number)

    workers.end_start = ended


@pytest.mark.parametrize("kind", ["lost", "unfit"])
def test_node_where_no_worker_starts_is_survived(kind):
    run = Run(tasks(10), {"a": 2}, 100.0)
    fail_starts(run.workers, "bad", kind, ConfigError("runtime.device=cuda: torch sees no GPU here"))
    run.workers.at(20, lambda: run.workers.join("bad", 1))
    run.go()
    assert len(run.units("done")) == 10
    notes = [event.text for event in run.events if event.kind == "note"]
    assert 2 < len(notes) < 40
    assert all("did not start" in text for text in notes)


def test_many_starts_lost_at_once_count_as_one_failure():
    run = Run(tasks(40), {"a": 10, "b": 10}, 100.0, start_s=5)
    run.workers.at(3, lambda: [run.workers.kill(number) for number in list(run.workers.present)])
    run.go()
    assert len(run.units("done")) == 40
    assert [event.kind for event in run.events].count("note") == 1


def test_unfit_worker_alone_ends_the_run():
    run = Run(tasks(4), {"a": 2})
    fail_starts(run.workers, "a", "unfit", ConfigError("--store runs/store: another folder there"))
    with pytest.raises(ConfigError, match="--store runs/store: another folder there"):
        run.scheduler.run(run.board)
    assert run.workers.clock_s < 20


def test_unfit_worker_leaves_the_run_to_others():
    run = Run(tasks(4), {"bad": 1, "a": 1})
    fail_starts(run.workers, "bad", "unfit", ConfigError("torch sees no GPU here"))
    assert len(run.go().units("done")) == 4


def autoscaled(run, most=1000):
    """Add a node for each worker that waits, a minute after it was asked for."""
    seen = [0]

    def scale():
        for _ in range(min(len(run.workers.waiting), most - len(run.workers.nodes))):
            seen[0] += 1
            run.workers.join(f"node-{seen[0]}", 1)
        run.workers.at(run.workers.clock_s + 60, scale)

    run.workers.at(60, scale)
    return seen


def test_autoscaled_cluster_grows_by_many_nodes():
    run = Run(tasks(100), {}, 600.0, grows=True, start_timeout_s=1800)
    nodes = autoscaled(run)
    run.go()
    assert nodes[0] > 40
    assert run.workers.clock_s < 3600
    fixed = Run(tasks(100), {"a": 1}, 600.0)
    autoscaled(fixed)
    fixed.workers.at(3600.0, lambda: fixed.__setattr__("nodes", len(fixed.workers.nodes)))
    assert fixed.go().nodes == 1  # a Ray of one machine never grows


def test_no_node_is_requested_when_no_task_waits():
    run = Run(tasks(8), {"a": 4}, lambda item, node: 10.0 if item.name < "class-4" else 500.0, grows=True)
    run.workers.at(100.0, lambda: run.__setattr__("waiting", len(run.workers.waiting)))
    assert run.go().waiting == 0


def test_busy_nodes_are_waited_for_longer_with_a_note():
    run = Run(tasks(2), {"a": 1}, start_s=200.0, start_timeout_s=45).go()
    assert len(run.units("done")) == 2
    (note,) = [event.text for event in run.events if event.kind == "note"]
    assert "no worker has started for 45 s" in note
    never = Run(tasks(2), {"a": 1}, start_s=math.inf, start_timeout_s=45)
    with pytest.raises(ConfigError, match="no worker could start in 45"):
        never.scheduler.run(never.board)


def test_surplus_workers_end_while_the_last_task_runs():
    items = [*tasks(8), task("long", "class-0", stage="evaluate")]
    run = Run(items, {"a": 8}, lambda item, node: 1000.0 if item.name == "long" else 10.0)
    held = []
    run.workers.at(500.0, lambda: held.append(len(run.workers.present)))
    run.go()
    assert held == [1]


def test_workers_start_with_the_board_where_they_are_asked_to():
    items = [task("teacher", stage="pretrain"), *(task(f"class-{number}") for number in range(6))]
    for item in items[1:]:
        item.units[0].inputs["0"] = items[0].units[0].ref
    times = []
    for kinds in ((), ("main",)):
        run = Run(items, {"a": 3}, start_s=7.0, at_once=kinds)
        run.workers.at(1.0, lambda run=run: run.__setattr__("held", len(run.workers.present)))
        times.append((run.go().held, run.workers.clock_s))
    assert times == [(1, 44.0), (3, 37.0)]
