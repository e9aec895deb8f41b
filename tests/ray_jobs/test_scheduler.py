"""The pool's rules, on simulated workers and a virtual clock."""

import collections
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation import SimulatedCrew
from ray_jobs.scheduler import Pool
from ray_jobs.workers import News
from wmdd.config.sections import RayConfig
from wmdd.engine.board import Board
from wmdd.engine.events import Event
from wmdd.engine.plan import PlannedUnit, StageTask
from wmdd.errors import ConfigError, StageError, WmddError
from wmdd.storage.store import ArtifactRef


def task(name, *needs, stage="recover"):
    ref = ArtifactRef(stage, name, f"{stage}-{name}")
    inputs = {str(place): ArtifactRef(stage, need, f"{stage}-{need}") for place, need in enumerate(needs)}
    return StageTask(stage, name, {}, 0, (PlannedUnit(ref, {}, inputs),))


def tasks(count):
    return [task(f"class-{number}") for number in range(count)]


class Run:
    """A pool on a simulated crew, and all that was told."""

    def __init__(self, items, nodes, seconds=10.0, *, lane=lambda item: "main", solo=None, limits=None, **options):
        duration = seconds if callable(seconds) else lambda item, node: seconds
        own = ("start_s", "error", "says", "shared", "fits")
        crew = {name: options.pop(name) for name in own if name in options}
        pool = {name: options.pop(name) for name in ("early", "grows") if name in options}
        self.crew, self.events = SimulatedCrew(nodes, duration, **crew), []
        self.board = Board(items, {unit.ref for item in items for unit in item.units}, lane)
        self.pool = Pool(self.crew, RayConfig(**options), self.events.append, limits=limits, solo=solo, **pool)

    def go(self):
        self.pool.run(self.board)
        self.pool.close()
        assert not self.crew.seats, "a worker is left"
        return self

    def told(self, kind):
        return [event.unit for event in self.events if event.kind == kind]

    def starts(self):
        return collections.Counter(item.name for _, _, item in self.crew.given)


def test_every_task_runs_once_on_all_workers_side_by_side():
    run = Run(tasks(12), {"a": 2, "b": 2}, start_s=5).go()
    assert set(run.starts().values()) == {1}
    assert sorted(run.told("done")) == sorted(item.name for item in tasks(12))
    assert run.crew.clock == pytest.approx(5 + 3 * 10)
    assert collections.Counter(node for _, node, _ in run.crew.given) == {"a": 6, "b": 6}


def test_no_more_workers_are_hired_than_there_are_tasks_or_than_was_asked_for():
    few = Run(tasks(2), {"a": 8})
    few.crew.at(3, lambda: few.__setattr__("seen", len(few.crew.seats)))
    assert few.go().seen == 2
    limited = Run(tasks(9), {"a": 8}, limits={"main": 3}).go()
    assert limited.crew.clock == pytest.approx(1 + 30)


def test_class_does_not_wait_for_the_others_of_its_stage():
    items = [task("slow"), task("fast"), task("after-fast", "fast"), task("after-slow", "slow")]
    run = Run(items, {"a": 2}, lambda item, node: 100 if item.name == "slow" else 10).go()
    begun = {item.name: moment for moment, _, item in run.crew.given}
    assert begun["after-fast"] == pytest.approx(11)
    assert begun["after-slow"] == pytest.approx(101)


def test_task_of_a_lost_worker_starts_again_elsewhere_and_the_rest_goes_on():
    run = Run(tasks(6), {"a": 2}, start_s=1)
    run.crew.at(5, lambda: run.crew.lose(0))
    run.go()
    assert run.starts()["class-0"] + run.starts()["class-1"] == 3
    assert len(run.told("retry")) == 1
    assert len(run.told("done")) == 6
    (text,) = [event.text for event in run.events if event.kind == "retry"]
    assert "its worker on a died (killed); it starts again" in text


def test_task_that_kills_its_worker_every_time_fails_alone_and_last():
    items = tasks(8)
    run = Run(items, {"a": 2}, attempts=3)
    give = run.crew.give

    def poisoned(worker, item):
        give(worker, item)
        if item.name == "class-1":
            run.crew.at(run.crew.clock + 1, lambda: run.crew.lose(worker))

    run.crew.give = poisoned
    run.go()
    assert run.starts()["class-1"] == 3
    assert len(run.told("done")) == 7
    (failure,) = run.board.failures
    assert (failure.stage, failure.unit) == ("recover", "class-1")
    assert "died (killed), 3 times; is memory too small?" in failure.cause


def test_nodes_that_leave_take_no_attempt_from_their_tasks():
    run = Run(tasks(2), {"spot-0": 2}, 30.0, attempts=1)
    for number in range(6):
        run.crew.at(5 + 20 * number, lambda number=number: run.crew.leave(f"spot-{number}"))
        run.crew.at(6 + 20 * number, lambda number=number: run.crew.join(f"spot-{number + 1}", 2))
    run.go()
    assert run.board.failures == []
    assert len(run.told("retry")) >= 4
    assert sorted(run.told("done")) == ["class-0", "class-1"]


def test_task_that_gives_no_news_is_given_to_another_worker():
    hung = []

    def seconds(item, node):
        if item.name == "class-0" and not hung:
            hung.append(node)
            return math.inf
        return 10

    run = Run(tasks(3), {"a": 2}, seconds, silence_s=60, speculate=0).go()
    assert run.starts() == {"class-0": 2, "class-1": 1, "class-2": 1}
    assert len(run.told("done")) == 3
    assert any("no news for 60 s" in event.text for event in run.events if event.kind == "retry")


def test_task_that_always_hangs_fails_in_the_end():
    run = Run(tasks(2), {"a": 2}, lambda item, node: math.inf if item.name == "class-0" else 1, silence_s=60).go()
    (failure,) = run.board.failures
    assert "no news for 60 s, 3 times" in failure.cause
    assert run.told("done") == ["class-1"]


def test_straggler_gets_a_second_copy_and_the_first_to_finish_wins():
    slow = []

    def seconds(item, node):
        if item.name == "class-3" and not slow:
            slow.append(node)
            return 10_000
        return 10

    run = Run(tasks(6), {"a": 2}, seconds, speculate=3).go()
    assert run.starts()["class-3"] == 2
    assert run.told("done").count("class-3") == 1
    assert run.crew.clock < 100
    assert (
        Run(tasks(6), {"a": 2}, lambda item, node: 500 if item.name == "class-3" else 10, speculate=0)
        .go()
        .starts()["class-3"]
        == 1
    )


def test_workers_at_work_leave_snapshots_before_an_interrupted_run_ends():
    run = Run(tasks(4), {"a": 3}, lambda item, node: 10 if item.name == "class-0" else 1000, start_s=5, speculate=0)

    def interrupt():
        raise KeyboardInterrupt

    run.crew.at(100, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    assert len(run.crew.saved) == 3
    assert {run.crew.seats[number].task.name for number in run.crew.saved} == {"class-1", "class-2", "class-3"}


def test_node_that_joins_gets_work():
    run = Run(tasks(10), {"a": 1})
    run.crew.at(15, lambda: run.crew.join("b", 4))
    run.go()
    assert collections.Counter(node for _, node, _ in run.crew.given)["b"] >= 6
    assert {"a": 1, "b": 4} in [event.metrics for event in run.events if event.kind == "workers"]


def test_no_room_is_an_error_within_the_start_timeout():
    run = Run(tasks(2), {}, start_timeout_s=45)
    with pytest.raises(ConfigError, match=r"ray\.start_timeout_s=45: no worker could start .*0 simulated nodes"):
        run.pool.run(run.board)
    assert 45 <= run.crew.clock < 50


def test_node_that_comes_in_time_is_waited_for():
    run = Run(tasks(2), {}, start_timeout_s=600)
    run.crew.at(500, lambda: run.crew.join("late", 2))
    assert len(run.go().told("done")) == 2


def test_workers_that_never_start_end_the_run_with_their_reason():
    run = Run(tasks(2), {"a": 1}, start_s=1, start_timeout_s=1000)
    hire = run.crew.hire

    def stillborn(lane):
        number = hire(lane)
        run.crew.at(run.crew.clock + 0.5, lambda: run.crew.lose(number))
        return number

    run.crew.hire = stillborn
    with pytest.raises(WmddError, match="8 times in a row no worker started: killed"):
        run.pool.run(run.board)
    assert run.crew.clock > 60  # ever more slowly, so that what is out of order for a moment may come back


def bad(crew, node, kind="lost", error=None):
    """Let workers on a node end as they start."""
    up = crew._up

    def ended(number):
        seat = crew.seats.get(number)
        return News(number, kind, text="no wmdd", error=error) if seat and seat.node == node else up(number)

    crew._up = ended


@pytest.mark.parametrize("kind", ["lost", "unfit"])
def test_node_on_which_no_worker_starts_does_not_end_the_work_of_the_others(kind):
    run = Run(tasks(10), {"a": 2}, 100.0)
    bad(run.crew, "bad", kind, ConfigError("runtime.device=cuda: torch sees no GPU here"))
    run.crew.at(20, lambda: run.crew.join("bad", 1))
    run.go()
    assert len(run.told("done")) == 10
    notes = [event.text for event in run.events if event.kind == "note"]
    assert 2 < len(notes) < 40
    assert all("did not start" in text for text in notes)


def test_nodes_that_all_leave_at_once_end_no_run_however_many_workers_were_starting():
    run = Run(tasks(40), {"a": 10, "b": 10}, 100.0, start_s=5)
    run.crew.at(3, lambda: [run.crew.lose(number) for number in list(run.crew.seats)])
    run.go()
    assert len(run.told("done")) == 40
    assert [event.kind for event in run.events].count("note") == 1


def test_worker_that_cannot_work_where_no_other_does_ends_the_run_with_what_it_says():
    run = Run(tasks(4), {"a": 2})
    bad(run.crew, "a", "unfit", ConfigError("--store runs/store: another folder there"))
    with pytest.raises(ConfigError, match="--store runs/store: another folder there"):
        run.pool.run(run.board)
    assert run.crew.clock < 20


def test_first_worker_that_cannot_work_leaves_the_run_to_those_that_can():
    run = Run(tasks(4), {"bad": 1, "a": 1})
    bad(run.crew, "bad", "unfit", ConfigError("torch sees no GPU here"))
    assert len(run.go().told("done")) == 4


def autoscaled(run, most=1000):
    """Add a node for each worker that waits, a minute after it was asked for."""
    seen = [0]

    def scale():
        for _ in range(min(len(run.crew._waiting), most - len(run.crew.nodes))):
            seen[0] += 1
            run.crew.join(f"node-{seen[0]}", 1)
        run.crew.at(run.crew.clock + 60, scale)

    run.crew.at(60, scale)
    return seen


def test_cluster_that_adds_nodes_on_demand_gets_more_than_one():
    run = Run(tasks(100), {}, 600.0, grows=True, start_timeout_s=1800)
    nodes = autoscaled(run)
    run.go()
    assert nodes[0] > 40
    assert run.crew.clock < 3600
    fixed = Run(tasks(100), {"a": 1}, 600.0)
    autoscaled(fixed)
    fixed.crew.at(3600.0, lambda: fixed.__setattr__("nodes", len(fixed.crew.nodes)))
    assert fixed.go().nodes == 1  # a Ray of one machine never grows


def test_no_node_is_asked_for_once_there_is_nothing_left_that_it_could_do():
    run = Run(tasks(8), {"a": 4}, lambda item, node: 10.0 if item.name < "class-4" else 500.0, grows=True, speculate=0)
    run.crew.at(100.0, lambda: run.__setattr__("waiting", len(run.crew._waiting)))
    assert run.go().waiting == 0


def two_lanes(item):
    return "cpu" if item.stage == "barycenter" else "main"


def chain(count):
    """Statistics, barycenter and recovery of each class; and a draw, which needs a CPU alone."""
    stages = ("statistics", "barycenter", "recover")
    items = [task(f"class-{number}", stage=stage) for stage in stages for number in range(count)]
    for place, item in enumerate(items[count:]):
        item.units[0].inputs["0"] = items[place].units[0].ref
    return [*items, task("draw", stage="barycenter")]


@pytest.mark.parametrize("holds", [1, 2, 3])
def test_kinds_of_workers_that_need_the_same_cpus_do_not_wait_for_each_other_for_ever(holds):
    run = Run(chain(3), {"a": holds}, lane=two_lanes, shared=True, early={"cpu"}, start_timeout_s=45).go()
    assert len(run.told("done")) == 10
    assert run.crew.clock < 1000


def test_lane_that_has_no_room_is_an_error_though_workers_of_another_are_up():
    run = Run(chain(3), {"a": 4}, lane=two_lanes, fits=lambda node, lane: lane == "cpu", start_timeout_s=45)
    with pytest.raises(ConfigError, match=r"ray\.start_timeout_s=45: no worker could start"):
        run.pool.run(run.board)
    assert run.told("done") == ["draw"]
    assert run.crew.clock < 100


def test_busy_nodes_are_waited_for_longer_and_it_is_said():
    run = Run(tasks(2), {"a": 1}, start_s=200.0, start_timeout_s=45).go()
    assert len(run.told("done")) == 2
    (note,) = [event.text for event in run.events if event.kind == "note"]
    assert "no worker has come up for 45 s" in note
    never = Run(tasks(2), {"a": 1}, start_s=math.inf, start_timeout_s=45)
    with pytest.raises(ConfigError, match="no worker could start in 45"):
        never.pool.run(never.board)


def test_task_that_runs_alone_has_nothing_beside_it():
    items = [task("teacher", stage="pretrain"), *tasks(4), task("other", stage="pretrain")]
    run = Run(
        items, {"a": 3}, lane=lambda item: "alone" if item.stage == "pretrain" else "main", solo={"alone": "main"}
    )
    run.go()
    spans = {item.name: (moment, moment + 10) for moment, _, item in run.crew.given}
    for name in ("teacher", "other"):
        begun, ended = spans.pop(name)
        assert all(end <= begun or start >= ended for start, end in spans.values())


def test_workers_give_their_room_back_before_a_group_of_trainers_starts():
    items = [*tasks(2), task("teacher", "class-0", "class-1", stage="recover"), task("after", "teacher")]
    kinds = {"teacher": "train"}
    run = Run(items, {"a": 2}, lane=lambda item: kinds.get(item.name, "main"), solo={"train": "train"})
    give, lanes = run.crew.give, []

    def seen(worker, item):
        give(worker, item)
        lanes.append((item.name, sorted(seat.lane for seat in run.crew.seats.values())))

    run.crew.give = seen
    run.go()
    assert dict(lanes)["teacher"] == ["train"]
    assert run.told("done")[-2:] == ["teacher", "after"]


def test_error_of_the_method_is_final_and_one_that_may_pass_is_tried_on_a_new_worker():
    for passing, starts in ((False, 1), (True, 3)):
        error = StageError("recover", "class-00001", "broken", passing)
        run = Run(tasks(4), {"a": 2}, error=lambda item, error=error: error if item.name == "class-1" else None).go()
        assert run.starts()["class-1"] == starts
        assert run.board.failures[0].unit == "class-00001"
        assert "broken" in run.board.failures[0].cause
        assert len(run.told("done")) == 3


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
    run = Run(items, {"a": 2, "b": 1}, lambda item, node: length[item.name], attempts=50, speculate=2)

    def strike():
        if run.crew.seats:
            run.crew.lose(min(run.crew.seats))

    for moment in data.draw(st.lists(st.floats(0, 60), max_size=8)):
        run.crew.at(moment, strike)
    for number, moment in enumerate(data.draw(st.lists(st.floats(0, 60), max_size=3))):
        run.crew.at(moment, lambda: run.crew.leave("a"))
        run.crew.at(moment + 1, lambda number=number: run.crew.join(f"new-{number}", 2))
    run.go()
    assert sorted(run.told("done")) == sorted(names)
    assert run.board.failures == []


def test_workers_with_nothing_more_to_do_are_given_back_while_the_last_task_runs():
    items = [*tasks(8), task("long", "class-0", stage="evaluate")]
    run = Run(items, {"a": 8}, lambda item, node: 1000.0 if item.name == "long" else 10.0)
    held = []
    run.crew.at(500.0, lambda: held.append(len(run.crew.seats)))
    run.go()
    assert held == [1]


def test_slow_last_task_gets_a_worker_that_was_given_back():
    run = Run(tasks(9), {"a": 9}, lambda item, node: math.inf if item.name == "class-8" and not run_twice() else 10.0)
    seen = []

    def run_twice():
        seen.append(1)
        return len(seen) > 1

    run.go()
    assert run.starts()["class-8"] == 2
    assert run.told("done")[-1] == "class-8"


def test_cheap_workers_start_while_the_tasks_before_theirs_run():
    """Else those with a GPU would wait for them."""
    items = [task("a", stage="statistics"), task("b", "a", stage="barycenter"), task("c", "b", stage="recover")]
    items[1].units[0].inputs["0"] = items[0].units[0].ref
    items[2].units[0].inputs["0"] = items[1].units[0].ref
    lane = {"statistics": "main", "barycenter": "cpu", "recover": "main"}
    times = []
    for early in ((), {"cpu"}):
        run = Run(items, {"node": 1}, 10.0, lane=lambda item: lane[item.stage], start_s=7.0)
        run.pool = Pool(run.crew, RayConfig(), run.events.append, early=early)
        run.go()
        times.append(run.crew.clock)
    assert times == [44.0, 37.0]


def test_workers_come_up_during_the_last_step_of_what_they_wait_for():
    def last_step(item):
        return Event("progress", item.stage, item.name, done=9, total=10) if item.name == "teacher" else None

    items = [task("teacher"), *(task(f"class-{number}", "teacher") for number in range(4))]
    clocks = [
        Run(items, {"a": 4}, 10.0, start_s=7.0, says=says).go().crew.clock for says in (last_step, lambda _: None)
    ]
    assert clocks == [7 + 10 + 10, 7 + 10 + 7 + 10]


def test_no_worker_comes_up_while_a_training_needs_the_machine_for_itself():
    items = [task("teacher", stage="pretrain"), *(task(f"class-{number}") for number in range(3))]
    for number in range(3):
        items[1 + number].units[0].inputs["0"] = items[0].units[0].ref
    held = []
    run = Run(
        items,
        {"a": 4},
        lane=lambda item: "alone" if item.stage == "pretrain" else "main",
        solo={"alone": "main"},
        says=lambda item: Event("progress", item.stage, item.name, done=0, total=1),
    )
    run.crew.at(5.0, lambda: held.append(len(run.crew.seats)))
    run.go()
    assert held == [1]
