"""Several kinds of workers, and tasks that run alone."""

import pytest
from simulated import Run, task, tasks

from ray_jobs.retries import MAX_NODE_LOSSES
from ray_jobs.scheduler import Scheduler
from ray_jobs.workers import NoRoomError
from wmdd.config.machines import RayConfig
from wmdd.errors import ConfigError


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


def test_exclusive_task_comes_in_the_order_of_the_plan():
    """A network that several workers train on all data does not hold up images."""
    items = [task(name, stage="pretrain") for name in ("teacher", "full-net")] + tasks(4)
    for item in items[2:]:
        item.units[0].inputs["0"] = items[0].units[0].ref
    by_stage = {"pretrain": "train", "recover": "main"}
    run = Run(items, {"a": 2}, queue=lambda item: by_stage[item.stage], exclusive={"train": "train"})
    held = []
    run.workers.at(15.0, lambda: held.extend(sorted(worker.kind for worker in run.workers.present.values())))
    run.go()
    assert run.units("done") == ["teacher", *(item.name for item in tasks(4)), "full-net"]
    assert held == ["main", "main"]


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


def test_kind_without_capacity_is_an_error():
    run = Run(chain(3), {"a": 4}, queue=two_queues, fits=lambda node, kind: kind == "cpu", start_timeout_s=45)
    with pytest.raises(ConfigError, match=r"ray\.start_timeout_s=45: no worker could start"):
        run.scheduler.run(run.board)
    assert run.units("done") == ["draw"]
    assert run.workers.clock_s < 100


def students(count):
    """Students that teams train, each after the task of a class."""
    items = [task(f"student-{number}", stage="evaluate") for number in range(count)]
    for item, needed in zip(items, tasks(count), strict=True):
        item.units[0].inputs["0"] = needed.units[0].ref
    return items


def by_stage(item):
    return "team" if item.stage == "evaluate" else "main"


def busy(run):
    """Return the most places that tasks took at the same time, and those of teams alone."""
    spans = [
        (moment, moment + run.workers.seconds(item, ""), item.stage == "evaluate")
        for moment, _, item in run.workers.assigned
    ]
    moments = [begun for begun, _, _ in spans]

    def places(moment, is_team):
        return sum(
            (run.workers.teams["team"] if team else 1) for a, b, team in spans if a <= moment < b and team >= is_team
        )

    return max(places(moment, False) for moment in moments), max(places(moment, True) for moment in moments)


def test_teams_train_together_and_beside_other_tasks():
    items = [*tasks(30), *students(3)]
    run = Run(items, {"a": 4, "b": 4}, queue=by_stage, teams={"team": 3}).go()
    assert len(run.units("done")) == 33
    assert busy(run) == (8, 6)
    ends = {item.name: moment + 10 for moment, _, item in run.workers.assigned}
    # A team waits until as many main workers as it has places have finished their tasks, and no longer.
    assert max(ends[f"student-{number}"] for number in range(2)) <= 40
    assert run.workers.clock_s < 10 * (30 + 9) / 8 + 15


def test_team_ends_main_workers_only_where_it_needs_their_places():
    run = Run([*tasks(12), *students(1)], {"a": 4}, queue=by_stage, teams={"team": 2})
    held = []
    run.workers.at(15.0, lambda: held.append(sorted(worker.kind for worker in run.workers.present.values())))
    run.go()
    assert held == [["main", "main", "team"]]


def test_team_for_which_no_nodes_are_large_enough_is_an_error():
    run = Run([*tasks(2), *students(1)], {"a": 4}, queue=by_stage, teams={"team": 5}, start_timeout_s=45)
    with pytest.raises(ConfigError, match=r"ray\.start_timeout_s=45: no worker could start"):
        run.scheduler.run(run.board)
    assert run.units("done") == ["class-0", "class-1"]


def without_room(failures):
    """Return what tasks end with: the first of teams find no room as often as given."""
    left = [failures]

    def error(item):
        left[0] -= item.stage == "evaluate"
        return NoRoomError("evaluate.workers=2: no room") if item.stage == "evaluate" and left[0] >= 0 else None

    return error


def test_team_without_room_is_tried_again_while_others_hold_workers():
    items = [*tasks(2), task("long"), *students(1)]
    seconds = lambda item, node: 300.0 if item.name == "long" else 10.0  # noqa: E731
    # More failures than a task has attempts.
    run = Run(items, {"a": 4}, seconds, queue=by_stage, teams={"team": 2}, error=without_room(5), attempts=3).go()
    assert run.board.failures == []
    assert len(run.units("done")) == 4
    assert run.starts()["student-0"] == 6
    texts = [event.text for event in run.events if event.kind == "retry"]
    assert set(texts) == {"student-0: evaluate.workers=2: no room; it starts again on another worker"}


def test_team_that_never_finds_room_fails_without_the_others():
    items = [*tasks(2), task("long"), *students(2)]
    seconds = lambda item, node: 1000.0 if item.name == "long" else 10.0  # noqa: E731
    failing = without_room(10**6)
    error = lambda item: failing(item) if item.name == "student-0" else None  # noqa: E731
    run = Run(items, {"a": 4}, seconds, queue=by_stage, teams={"team": 2}, error=error).go()
    (failure,) = run.board.failures
    assert (failure.unit, run.starts()["student-0"]) == ("student-0", MAX_NODE_LOSSES)
    assert "evaluate.workers=2: no room" in failure.cause
    assert sorted(run.units("done")) == ["class-0", "class-1", "long", "student-1"]


def test_team_without_room_ends_a_run_that_holds_nothing_else():
    run = Run([*tasks(2), *students(1)], {"a": 4}, queue=by_stage, teams={"team": 2}, error=without_room(1))
    with pytest.raises(ConfigError, match=r"^evaluate\.workers=2: no room$"):
        run.scheduler.run(run.board)
    assert run.units("done") == ["class-0", "class-1"]


def test_limit_of_workers_holds_for_teams_and_main_workers_together():
    items = [*tasks(20), *students(6)]
    limits = {"main": 7, "team": 2}
    run = Run(items, {"a": 30}, queue=by_stage, teams={"team": 3}, limits=limits).go()
    assert len(run.units("done")) == 26
    assert busy(run) == (7, 6)


def test_team_is_started_again_after_its_node_left():
    run = Run([*tasks(4), *students(2)], {"a": 4, "b": 4}, 20.0, queue=by_stage, teams={"team": 4})
    run.workers.at(30.0, lambda: run.workers.leave("b"))
    run.go()
    assert busy(run)[1] == 8
    assert len(run.units("done")) == 6
    assert run.starts()["student-0"] + run.starts()["student-1"] == 3


def test_nodes_for_a_team_are_requested():
    run = Run(students(1), {}, queue=by_stage, teams={"team": 4}, grows=True, start_timeout_s=600)
    run.workers.at(30.0, lambda: (run.workers.join("a", 2), run.workers.join("b", 2)))
    assert run.go().units("done") == ["student-0"]
