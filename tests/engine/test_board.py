"""The board: tasks become ready as their inputs appear, and a failure blocks only tasks that need it."""

from types import SimpleNamespace

import pytest
from digits import changed
from hypothesis import given
from hypothesis import strategies as st

from wmdd.data.scan import build_index
from wmdd.engine.board import Board
from wmdd.engine.plan import plan_from
from wmdd.engine.task import PlannedUnit, StageTask
from wmdd.errors import StageError
from wmdd.storage.store import ArtifactRef


def ref(stage, unit):
    return ArtifactRef(stage, unit, f"key of {stage} {unit}")


def task(stage, name, *inputs, images="distilled"):
    """A task of one unit; several inputs make one list, a single one stands alone."""
    needs = {"input": inputs[0]} if len(inputs) == 1 else {"inputs": tuple(inputs)}
    params = SimpleNamespace(images=images)
    return StageTask(stage, name, {}, 0, (PlannedUnit(ref(stage, name), params, needs if inputs else {}),))


def refs(tasks):
    return {unit.ref for item in tasks for unit in item.units}


def chain(classes=3):
    """A teacher, statistics and images by class, and labels of all of them."""
    names = [f"class-{number}" for number in range(classes)]
    teacher = task("pretrain", "teacher")
    statistics = [task("statistics", name, ref("pretrain", "teacher")) for name in names]
    images = [task("recover", name, ref("statistics", name)) for name in names]
    return [teacher, *statistics, *images, task("relabel", "all", *(ref("recover", name) for name in names))]


def taken(board, queue=""):
    names = []
    while (item := board.take(queue)) is not None:
        names.append(f"{item.stage} {item.name}")
    return names


def test_class_runs_as_soon_as_its_inputs_exist():
    tasks = chain()
    board = Board(tasks, refs(tasks))
    assert taken(board) == ["pretrain teacher"]
    board.finish(tasks[0])
    assert taken(board) == ["statistics class-0", "statistics class-1", "statistics class-2"]
    board.finish(tasks[2])
    assert taken(board) == ["recover class-1"]  # while the other classes' statistics still run
    assert len(board) == 6


def test_artifacts_in_the_store_are_not_waited_for():
    tasks = chain()
    board = Board(tasks[4:], refs(tasks[4:]))
    assert taken(board) == ["recover class-0", "recover class-1", "recover class-2"]


def test_failure_blocks_only_tasks_that_need_it():
    tasks = chain()
    board = Board(tasks, refs(tasks))
    for item in tasks[:4]:
        board.take()
        board.finish(item)
    error = StageError("recover", "class-1", "broken")
    board.fail(tasks[5], error)
    assert board.failures == [error]
    assert [item.name for item in board.blocked] == ["all"]
    assert taken(board) == ["recover class-0", "recover class-1", "recover class-2"]
    board.finish(tasks[4])
    board.finish(tasks[6])
    assert len(board) == 0
    assert board.take() is None


def test_failed_teacher_blocks_all_that_follows_once():
    tasks = chain()
    board = Board(tasks, refs(tasks))
    board.fail(tasks[0], StageError("pretrain", "teacher", "broken"))
    assert len(board) == 0
    assert len(board.blocked) == 7
    assert len(set(map(id, board.blocked))) == 7


def test_task_put_back_is_taken_again_in_order():
    tasks = chain()
    board = Board(tasks[1:], refs(tasks[1:]))
    first, second = board.take(), board.take()
    board.put_back(second)
    board.put_back(first)
    assert board.take() is first
    board.finish(first)
    board.put_back(first)
    assert first not in [board.take() for _ in range(2)]


def test_queues_are_separate():
    tasks = chain()
    board = Board(tasks[1:], refs(tasks[1:]), lambda item: "gpu" if item.stage == "recover" else "cpu")
    assert board.queues() == ["cpu"]
    assert board.ready("cpu") == 3
    board.finish(tasks[1])
    assert board.take("gpu").name == "class-0"
    assert board.ready("gpu") == 0


def test_queues_come_in_the_order_of_their_first_ready_tasks():
    tasks = [task("recover", name) for name in ("a", "b", "c")]
    board = Board(tasks, refs(tasks), lambda item: "odd" if item.name == "b" else "even")
    assert board.queues() == ["even", "odd"]
    first = board.take("even")
    assert board.queues() == ["odd", "even"]
    board.put_back(first)
    assert board.queues() == ["even", "odd"]


@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=30), st.data())
def test_any_order_runs_tasks_once_after_their_inputs(needs, data):
    tasks = [
        task("stage", str(number), *(ref("stage", str(need)) for need in wanted if need < number))
        for number, wanted in enumerate(needs)
    ]
    board, running, finished = Board(tasks, refs(tasks)), [], set()
    broken = data.draw(st.sets(st.sampled_from(range(len(tasks))), max_size=2))
    while len(board):
        while (item := board.take()) is not None:
            running.append(item)
        done = running.pop(data.draw(st.integers(0, len(running) - 1)))
        wanted = {need for need in needs[int(done.name)] if need < int(done.name)}
        assert {str(need) for need in wanted} <= finished
        if int(done.name) in broken:
            board.fail(done, StageError("stage", done.name, "broken"))
        else:
            board.finish(done)
            finished.add(done.name)
    assert len(finished) + len(board.failures) + len(board.blocked) == len(tasks)
    assert not running


def with_references():
    """A chain, and what is for comparison alone, planned before it."""
    references = [task("pretrain", "full-net"), task("relabel", "random-0-epochs-0000", images="random-0")]
    labels = ref("relabel", "random-0-epochs-0000")
    references.append(task("evaluate", "random-0-net-seed-0", labels, images="random-0"))
    return [*references, task("select", "random-0-class-0"), *chain(2)]


def test_references_wait_until_all_tasks_of_images_are_taken():
    tasks = with_references()
    board = Board(tasks, refs(tasks))
    assert taken(board) == ["select random-0-class-0", "pretrain teacher", "pretrain full-net"]
    board.finish(tasks[4])
    assert taken(board) == ["statistics class-0", "statistics class-1"]
    board.finish(tasks[5])
    assert taken(board) == ["recover class-0"]
    board.finish(tasks[6])
    assert board.ready("") == 1
    assert board.take().name == "class-1"
    assert taken(board) == ["relabel random-0-epochs-0000"]  # while images are made


@pytest.mark.parametrize("name", ["full-net", "teacher-net"])
def test_networks_that_images_do_not_need_come_late_but_wait_for_nothing(name):
    network, images = task("pretrain", name), chain(2)
    labels = task("relabel", "all", ref("recover", "class-0"), ref("pretrain", name))
    tasks = [network, *images[:-1], labels]
    board = Board(tasks, refs(tasks))
    assert board.take() is images[0]  # the teacher
    assert board.take() is network  # a worker is free, while the teacher trains
    board.put_back(network)
    board.finish(images[0])
    assert taken(board) == ["statistics class-0", "statistics class-1", f"pretrain {name}"]
    for item in (images[1], images[3], network):
        board.finish(item)
    assert taken(board) == ["recover class-0", "relabel all"]


def test_order_of_a_planned_run_follows_from_its_units():
    options = {
        "evaluate__full_data": True,
        "evaluate__students": ("convnet1_w4",),
        "relabel__teachers": ("convnet1_w8",),
    }
    few = {"evaluate__num_students": 1, "relabel__epochs": 1, "data__classes": ("0", "1")}
    index = build_index("builtin:digits", classes=("0", "1"))
    plan = plan_from(changed(**options, **few), index, ref("index", "index"))
    tasks = [item for stage in plan.tasks.values() for item in stage]
    board, order = Board(tasks, refs(tasks)), []
    while (item := board.take()) is not None:
        order.append((item.stage, item.name))
        board.finish(item)
    names = dict.fromkeys(name for stage, name in order if stage in ("pretrain", "relabel", "evaluate"))
    assert list(names) == [
        "teacher",
        "full-convnet1_w8",  # it labels
        "distilled-epochs-0000",
        "distilled-convnet1_w4-seed-0",
        "full-convnet1_w4",
        "random-0-epochs-0000",
        "easiest-epochs-0000",
        "random-0-convnet1_w4-seed-0",
        "easiest-convnet1_w4-seed-0",
    ]
    assert order.index(("pretrain", "full-convnet1_w8")) > max(
        place for place, (stage, _) in enumerate(order) if stage == "recover"
    )


def test_references_come_after_labels_of_distilled_images():
    tasks = with_references()
    board = Board(tasks[:3] + tasks[-1:], refs(tasks[:3] + tasks[-1:]))
    assert taken(board) == ["relabel all", "pretrain full-net", "relabel random-0-epochs-0000"]
    board.finish(tasks[1])
    assert taken(board) == ["evaluate random-0-net-seed-0"]


def test_failed_images_do_not_hold_references():
    tasks = with_references()
    board = Board(tasks, refs(tasks))
    taken(board)
    board.fail(tasks[4], StageError("pretrain", "teacher", "broken"))
    assert taken(board) == ["relabel random-0-epochs-0000"]
    assert [item.stage for item in board.blocked].count("recover") == 2
