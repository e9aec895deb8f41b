"""The rules of the scheduler, on simulated workers and a virtual clock."""

import collections
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.scheduler import Scheduler
from ray_jobs.simulation import SimulatedWorkers
from ray_jobs.workers import Message
from wmdd.config.sections import RayConfig
from wmdd.engine.board import Board
from wmdd.engine.task import PlannedUnit, StageTask
from wmdd.errors import ConfigError, StageError, WmddError
from wmdd.storage.store import ArtifactRef


def task(name, *needs, stage="recover"):
    ref = ArtifactRef(stage, name, f"{stage}-{name}")
    inputs = {str(place): ArtifactRef(stage, need, f"{stage}-{need}") for place, need in enumerate(needs)}
    return StageTask(stage, name, {}, 0, (PlannedUnit(ref, {}, inputs),))


def tasks(count):
    return [task(f"class-{number}") for number in range(count)]


class Run:
    """A scheduler on simulated workers, and all its events."""

    def __init__(
        self, items, nodes, seconds=10.0, *, queue=lambda item: "main", exclusive=None, limits=None, **options
    ):
        duration = seconds if callable(seconds) else lambda item, node: seconds
        simulated = ("start_s", "error", "shared", "fits")
        simulated = {name: options.pop(name) for name in simulated if name in options}
        scheduled = {name: options.pop(name) for name in ("early", "grows") if name in options}
        self.workers, self.events = SimulatedWorkers(nodes, duration, **simulated), []
        self.board = Board(items, {unit.ref for item in items for unit in item.units}, queue)
        scheduled |= {"limits": limits, "exclusive": exclusive}
        self.scheduler = Scheduler(self.workers, RayConfig(**options), self.events.append, **scheduled)

    def go(self):
        self.scheduler.run(self.board)
        self.scheduler.close()
        assert not self.workers.present, "a worker is left"
        return self

    def units(self, kind):
        return [event.unit for event in self.events if event.kind == kind]

    def starts(self):
        return collections.Counter(item.name for _, _, item in self.workers.assigned)


def test_every_task_runs_once_over_all_workers():
    run = Run(tasks(12), {"a": 2, "b": 2}, start_s=5).go()
    assert set(run.starts().values()) == {1}
    assert sorted(run.units("done")) == sorted(item.name for item in tasks(12))
    assert run.workers.clock_s == pytest.approx(5 + 3 * 10)
    assert collections.Counter(node for _, node, _ in run.workers.assigned) == {"a": 6, "b": 6}


def test_workers_are_bounded_by_tasks_and_limit():
    few = Run(tasks(2), {"a": 8})
    few.workers.at(3, lambda: few.__setattr__("seen", len(few.workers.present)))
    assert few.go().seen == 2
    limited = Run(tasks(9), {"a": 8}, limits={"main": 3}).go()
    assert limited.workers.clock_s == pytest.approx(1 + 30)


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


def test_node_that_joins_gets_tasks():
    run = Run(tasks(10), {"a": 1})
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


def two_queues(item):
    return "cpu" if item.stage == "barycenter" else "main"


def chain(count):
    """Statistics, barycenter and recovery of each class; and a draw, which needs a CPU alone."""
    stages = ("statistics", "barycenter", "recover")
    items = [task(f"class-{number}", stage=stage) for stage in stages for number in range(count)]
    for place, item in enumerate(items[count:]):
        item.units[0].inputs["0"] = items[place].units[0].ref
    return [*items, task("draw", stage="barycenter")]


@pytest.mark.parametrize("holds", [1, 2, 3])
def test_kinds_that_share_cpus_do_not_deadlock(holds):
    run = Run(chain(3), {"a": holds}, queue=two_queues, shared=True, early={"cpu"}, start_timeout_s=45).go()
    assert len(run.units("done")) == 10
    assert run.workers.clock_s < 1000


def test_kind_without_capacity_is_an_error():
    run = Run(chain(3), {"a": 4}, queue=two_queues, fits=lambda node, kind: kind == "cpu", start_timeout_s=45)
    with pytest.raises(ConfigError, match=r"ray\.start_timeout_s=45: no worker could start"):
        run.scheduler.run(run.board)
    assert run.units("done") == ["draw"]
    assert run.workers.clock_s < 100


def test_busy_nodes_are_waited_for_longer_with_a_note():
    run = Run(tasks(2), {"a": 1}, start_s=200.0, start_timeout_s=45).go()
    assert len(run.units("done")) == 2
    (note,) = [event.text for event in run.events if event.kind == "note"]
    assert "no worker has started for 45 s" in note
    never = Run(tasks(2), {"a": 1}, start_s=math.inf, start_timeout_s=45)
    with pytest.raises(ConfigError, match="no worker could start in 45"):
        never.scheduler.run(never.board)


def test_exclusive_task_runs_alone():
    items = [task("teacher", stage="pretrain"), *tasks(4), task("other", stage="pretrain")]
    run = Run(
        items, {"a": 3}, queue=lambda item: "alone" if item.stage == "pretrain" else "main", exclusive={"alone": "main"}
    )
    run.go()
    spans = {item.name: (moment, moment + 10) for moment, _, item in run.workers.assigned}
    for name in ("teacher", "other"):
        begun, ended = spans.pop(name)
        assert all(end <= begun or start >= ended for start, end in spans.values())


def test_workers_end_before_a_group_of_trainers_starts():
    items = [*tasks(2), task("teacher", "class-0", "class-1", stage="recover"), task("after", "teacher")]
    queues = {"teacher": "train"}
    run = Run(items, {"a": 2}, queue=lambda item: queues.get(item.name, "main"), exclusive={"train": "train"})
    assign, kinds = run.workers.assign, []

    def seen(worker, item):
        assign(worker, item)
        kinds.append((item.name, sorted(worker.kind for worker in run.workers.present.values())))

    run.workers.assign = seen
    run.go()
    assert dict(kinds)["teacher"] == ["train"]
    assert run.units("done")[-2:] == ["teacher", "after"]


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


def test_surplus_workers_end_while_the_last_task_runs():
    items = [*tasks(8), task("long", "class-0", stage="evaluate")]
    run = Run(items, {"a": 8}, lambda item, node: 1000.0 if item.name == "long" else 10.0)
    held = []
    run.workers.at(500.0, lambda: held.append(len(run.workers.present)))
    run.go()
    assert held == [1]


def test_cpu_workers_start_while_upstream_tasks_run():
    """Else those with a GPU would wait for them."""
    items = [task("a", stage="statistics"), task("b", "a", stage="barycenter"), task("c", "b", stage="recover")]
    items[1].units[0].inputs["0"] = items[0].units[0].ref
    items[2].units[0].inputs["0"] = items[1].units[0].ref
    queue = {"statistics": "main", "barycenter": "cpu", "recover": "main"}
    times = []
    for early in ((), {"cpu"}):
        run = Run(items, {"node": 1}, 10.0, queue=lambda item: queue[item.stage], start_s=7.0)
        run.scheduler = Scheduler(run.workers, RayConfig(), run.events.append, early=early)
        run.go()
        times.append(run.workers.clock_s)
    assert times == [44.0, 37.0]


def test_no_worker_starts_during_an_exclusive_task():
    items = [task("teacher", stage="pretrain"), *(task(f"class-{number}") for number in range(3))]
    for number in range(3):
        items[1 + number].units[0].inputs["0"] = items[0].units[0].ref
    held = []
    run = Run(
        items,
        {"a": 4},
        queue=lambda item: "alone" if item.stage == "pretrain" else "main",
        exclusive={"alone": "main"},
    )
    run.workers.at(5.0, lambda: held.append(len(run.workers.present)))
    run.go()
    assert held == [1]
