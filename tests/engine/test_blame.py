"""What fails is named: the unit at work, not the one before; and the other units of its task are finished."""

import os
from pathlib import Path

import pytest
from image_files import folder, png

from wmdd.config.distill import override
from wmdd.config.machines import RuntimeConfig
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_method
from wmdd.engine.plan import make_plan
from wmdd.engine.run import LocalExecutor, run_plan, run_stage
from wmdd.errors import StageError, StorageError
from wmdd.runtime import Runtime
from wmdd.storage.store import ArtifactStore

CPU = Runtime.create(RuntimeConfig(device="cpu", train_threads=1))
NAMES = ("ant", "cat", "dog", "eel")
TINY = {
    "pretrain.model": "convnet2_w16",
    "pretrain.epochs": 1,
    "ipc": 3,
    "relabel.epochs": 1,
    "evaluate.students": ["convnet2_w16"],
    "evaluate.num_students": 1,
    "runtime.train_threads": 1,
    "runtime.device": "cpu",
}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def plan(tmp_path, store):
    """Of three random images for each of four classes that have three."""
    files = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in NAMES for i in range(3)]
    config = override(
        recipe("cifar10-quick"), {**TINY, "evaluate.baselines": (), "data.path": folder(tmp_path / "set", *files)}
    )
    return make_plan(with_method(config, "random"), store)


def cut(plan, *names):
    for name in names:
        path = Path(plan.config.data.path) / name
        path.write_bytes(path.read_bytes()[:80])


def failure(plan, store):
    """Run the task that chooses images: the error, and the classes that were saved all the same."""
    (task,) = plan.tasks["select"]
    with pytest.raises(StageError) as caught:
        list(run_stage(task, store, CPU))
    return caught.value, [NAMES[place] for place, unit in enumerate(task.units) if unit.ref in store]


def test_case17_broken_class_is_named_others_are_saved(plan, store):
    cut(plan, "train/dog/1.png")
    error, saved = failure(plan, store)
    assert error.unit == "random-0-class-00002"
    assert "train/dog/1.png" in error.cause
    assert saved == ["ant", "cat", "eel"]
    assert not error.passing


@pytest.mark.parametrize("name", ["ant", "eel"])
def test_unexpected_error_names_the_unit_at_work(plan, store, monkeypatch, name):
    def read(index, class_id, geometry, rows):
        if NAMES[class_id] == name:
            raise RuntimeError("the card is broken")
        return images(index, class_id, geometry, rows)

    from wmdd.stages.select import class_images as images

    monkeypatch.setattr("wmdd.stages.select.class_images", read)
    error, saved = failure(plan, store)
    assert error.unit == f"random-0-class-{NAMES.index(name):05d}"
    assert error.passing
    assert saved == [other for other in NAMES if other != name]


def test_broken_classes_are_named_with_their_causes(plan, store):
    cut(plan, "train/ant/0.png", "train/eel/2.png")
    error, saved = failure(plan, store)
    assert error.unit == "random-0-class-00000, random-0-class-00003"
    assert "train/ant/0.png" in error.cause
    assert "train/eel/2.png" in error.cause
    assert saved == ["cat", "dog"]


def test_many_failures_make_one_line_that_can_be_read():
    failures = [StageError("select", f"class-{number:05d}", "the folder is gone") for number in range(1000)]
    failures.append(StageError("select", "class-01000", "the card is broken", passing=True))
    error = StageError.of(failures)
    assert error.unit.endswith("class-00004 and 996 more")
    assert error.cause == "the folder is gone; the card is broken"
    assert error.passing
    assert StageError.of(failures[:1]) is failures[0]


def test_full_store_ends_the_task_and_names_missing(plan, store, monkeypatch):
    save, tried = ArtifactStore.save, []

    def full(self, ref, value, facts=None):
        tried.append(ref.unit)
        if ref.unit == "random-0-class-00001":
            raise StorageError("cannot be written (No space left on device); make room there")
        save(self, ref, value, facts)

    monkeypatch.setattr(ArtifactStore, "save", full)
    error, saved = failure(plan, store)
    assert error.unit == ", ".join(f"random-0-class-{number:05d}" for number in (1, 2, 3))
    assert error.cause.count("No space left") == 1
    assert error.passing
    assert (saved, len(tried)) == (["ant"], 2)


def test_case17_line_names_class_and_what_it_blocks(plan, store):
    cut(plan, "train/dog/1.png")
    with pytest.raises(StageError) as caught:
        run_plan(plan, store, LocalExecutor(plan.config.runtime), lambda event: None)
    text = str(caught.value)
    assert text.startswith("pretrain of teacher failed: train/dog/1.png ")
    assert "(failed too: select of random-0-class-00002 (dog))" in text
    assert text.endswith("; 2 tasks of relabel, evaluate need what is missing")  # nothing else was there to finish


def test_what_is_finished_is_said_where_there_is_some(plan, store, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("no students today")

    monkeypatch.setattr("wmdd.stages.evaluate.build_model", broken)
    with pytest.raises(StageError) as caught:
        run_plan(plan, store, LocalExecutor(plan.config.runtime), lambda event: None)
    assert "failed: RuntimeError: no students today" in str(caught.value)
    assert "need what is missing" not in str(caught.value)


@pytest.mark.parametrize("cuts", [{}, {"data.per_class": 3}], ids=["whole", "cut"])
def test_changed_image_is_indexed_again(plan, store, cuts):
    config = override(plan.config, cuts)
    plan = make_plan(config, store)
    path = Path(config.data.path) / "train/dog/1.png"
    before, old = path.stat(), path.read_bytes()
    path.write_bytes(next(new for new in map(png, range(100, 200)) if len(new) == len(old)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    error, saved = failure(plan, store)
    assert "train/dog/1.png has changed since the set was indexed; restore it, or run again to index it" in str(error)
    assert saved == ["ant", "cat", "eel"]
    again = make_plan(config, store)
    (task,) = again.tasks["select"]
    list(run_stage(task, store, CPU))
    assert store.absent(again.refs("select")) == set()
    assert [ref in plan.refs("select") for ref in again.refs("select")] == [True, True, False, True]
    assert not list(Path(store.folder.root, "notes").glob("outdated-*"))


def test_saved_unit_names_its_task(plan, store):
    (task,) = plan.tasks["select"]
    assert {event.task for event in run_stage(task, store, CPU) if event.kind == "unit"} == {task.name}
