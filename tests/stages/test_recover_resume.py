"""A group that is interrupted at any step goes on there, and ends with the images of an undisturbed one."""

import dataclasses

import pytest
import torch
from builders import CPU

from wmdd import outputs as events
from wmdd.config.sections import RecoverConfig
from wmdd.engine.run import run_stage
from wmdd.engine.snapshots import ResumeNote
from wmdd.engine.task import PlannedUnit, StageTask
from wmdd.errors import StageError, StorageError
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass
from wmdd.method.moments import Moments
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.seeding import SeedTree
from wmdd.stages.recover import Params
from wmdd.storage.artifact import pack
from wmdd.storage.store import ArtifactRef, ArtifactStore

SIZE, CLASSES, IPC, STEPS = 8, 4, 3, 6
SECTION = RecoverConfig(iterations=STEPS, roll_px=1, lr=0.1)
TEACHER = ArtifactRef("pretrain", "teacher", "t")


class Killed(BaseException):
    """As a signal that ends the process."""


@pytest.fixture(scope="module")
def inputs():
    """The teacher, and by class its statistics and barycenter."""
    with SeedTree(0).scoped():
        network = build_model("convnet2_w8", CLASSES, SIZE)
    teacher = Teacher("convnet2_w8", "auto", network.state_dict(), tuple("abcd"), 0.5, SIZE, 1.0, "half")
    made = []
    for class_id in range(CLASSES):
        real = torch.randn(6, 3, SIZE, SIZE, generator=SeedTree(class_id).torch())
        with Probe(teacher.network, CLASSES) as probe, torch.no_grad():
            _, features, seen = probe.run(real)
        even = torch.full((IPC,), 1 / IPC)
        atoms = Barycenter(class_id, features[:IPC], even, torch.arange(IPC), (1.0,), True, (0.0,) * 5)
        made.append((ClassStatistics(class_id, features, tuple(map(Moments.of, seen)), "abcd"[class_id]), atoms))
    return teacher, made


@pytest.fixture(autouse=True)
def at_each_step(monkeypatch):
    """Snapshots are due at each step, so that no test depends on time."""
    monkeypatch.setattr(events.SnapshotClock, "is_due", lambda self: True)


@pytest.fixture
def store(tmp_path, inputs):
    return filled(tmp_path / "store", inputs)


def filled(path, inputs):
    store, (teacher, made) = ArtifactStore(str(path)), inputs
    store.save(TEACHER, teacher)
    for class_id, (measured, atoms) in enumerate(made):
        store.save(ArtifactRef("statistics", f"class-{class_id}", f"s{class_id}"), measured)
        store.save(ArtifactRef("barycenter", f"class-{class_id}", f"b{class_id}"), atoms)
    return store


def group(section=SECTION, key="r", classes=range(CLASSES), **params):
    """A task; with fewer `steps` than all it has keys of its own, and goes on in that of the whole optimisation."""
    units = []
    for c in classes:
        needs = {
            "teacher": TEACHER,
            "statistics": ArtifactRef("statistics", f"class-{c}", f"s{c}"),
            "barycenter": ArtifactRef("barycenter", f"class-{c}", f"b{c}"),
        }
        whole = ArtifactRef("recover", f"class-{c}", f"{key}{c}")
        fewer = dataclasses.replace(whole, key=f"{key}-{params['steps']}-{c}") if "steps" in params else None
        units.append(PlannedUnit(fewer or whole, Params(c, **params), needs, whole if fewer else None))
    return StageTask("recover", "class-0..class-3", section.model_dump(mode="json"), 7, tuple(units))


def run(task, store, *, kill_after=None, holds=1000):
    """Run a task on a device that holds so many images, until so many snapshots are written; return its events and the
    number of steps that were computed."""
    written, steps, seen = [], [], []
    keep = ArtifactStore.write_note

    def write(self, name, data):
        keep(self, name, data)
        written.append(name)
        if len(written) == kill_after:
            raise Killed

    def count(_network, arguments):
        if len(arguments[0]) > holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        steps.append(len(arguments[0]))

    store = ArtifactStore(store.url)  # of another process, which remembers nothing
    hook = store.load(TEACHER, Teacher, keep=True).network.register_forward_pre_hook(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArtifactStore, "write_note", write)
        try:
            for event in run_stage(task, store, CPU):
                seen.append(event)
        except Killed:
            assert kill_after is not None
        finally:
            hook.remove()
    return seen, len(steps)


def images(task, store):
    return {unit.ref.unit: store.load(unit.ref, DistilledClass).to_files() for unit in task.units}


def notes(store):
    return [entry["name"] for entry in store.folder.entries("notes")]


WAYS = {
    "whole": ({}, 1000),
    "halves": ({}, 2 * IPC),
    "parts": ({"images_at_once": 2}, 1000),
    "parts cut short in halves": ({"steps": 4, "images_at_once": 2}, 2 * 2),
}


@pytest.mark.parametrize("way", WAYS)
def test_group_killed_at_each_snapshot_ends_alike(way, inputs, store, tmp_path):
    params, holds = WAYS[way]
    task, undisturbed = group(**params), filled(tmp_path / "other", inputs)
    _, expected_steps = run(task, undisturbed, holds=holds)
    kills, steps = 0, 0
    while any(unit.ref not in store for unit in task.units):
        seen, more = run(task, store, kill_after=1, holds=holds)
        assert not [event for event in seen if event.kind == "note"]
        steps += more
        kills += 1
        assert kills <= expected_steps
    assert kills >= 4
    assert steps == expected_steps  # no step was computed twice
    assert images(task, store) == images(task, undisturbed)
    left = [[store.folder.read(path) for path in notes(store)] for store in (store, undisturbed)]
    assert left[0] == left[1]
    assert len(left[0]) == ("steps" in params)  # more steps go on from there


@pytest.mark.parametrize("way", ["whole", "halves", "parts"])
def test_more_steps_go_on_from_fewer(way, inputs, store, tmp_path):
    """A search cuts recovery short, and goes on for the settings that do well."""
    params, holds = WAYS[way]
    task, undisturbed = group(**params), filled(tmp_path / "other", inputs)
    _, expected_steps = run(task, undisturbed, holds=holds)
    steps = [run(group(**params, **part), store, holds=holds)[1] for part in ({"steps": 2}, {"steps": 3}, {})]
    assert steps == [expected_steps * part // STEPS for part in (2, 1, 3)]
    assert images(task, store) == images(task, undisturbed)
    assert notes(store) == []


def test_lost_snapshot_of_fewer_steps_costs_only_time(inputs, store, tmp_path):
    undisturbed = filled(tmp_path / "other", inputs)
    run(group(), undisturbed)
    run(group(steps=2), store)
    store.folder.remove(*notes(store))
    _, steps = run(group(), store)
    assert steps == STEPS
    assert images(group(), store) == images(group(), undisturbed)


def test_snapshot_of_more_steps_is_ignored_by_fewer(inputs, store, tmp_path):
    undisturbed = filled(tmp_path / "other", inputs)
    run(group(steps=2), undisturbed)
    run(group(), store, kill_after=3)
    events, steps = run(group(steps=2), store)
    (text,) = [event.text for event in events if event.kind == "note"]
    assert "is ignored (it is of a longer optimisation)" in text
    assert steps == 2
    assert images(group(steps=2), store) == images(group(steps=2), undisturbed)


def test_seconds_of_fewer_steps_are_not_those_of_more(store, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("wmdd.engine.snapshots.time.perf_counter", lambda: now[0])
    refs = [ArtifactRef("recover", "class-0", "r")]
    note = ResumeNote(store, refs, refs)
    now[0] = 130.0
    note.write(events.Snapshot(b"half"), finished=True)
    later = ResumeNote(store, refs, refs)
    assert later.read() == b"half"
    assert later.seconds == 0


def test_killed_group_of_a_later_level_goes_on(inputs, store, tmp_path):
    undisturbed = filled(tmp_path / "other", inputs)
    run(group(), undisturbed)
    run(group(steps=2), store)
    steps = 0
    for _ in range(STEPS - 2):
        seen, more = run(group(), store, kill_after=1)
        assert not [event for event in seen if event.kind == "note"]
        steps += more
    assert steps == STEPS - 2
    assert images(group(), store) == images(group(), undisturbed)
    assert notes(store) == []


def test_resumed_group_says_where_it_goes_on(store):
    run(group(images_at_once=2), store, kill_after=7)  # in the second of two parts
    events, _ = run(group(images_at_once=2), store)
    told = [event for event in events if event.kind == "progress"]
    first = told[0]
    assert (first.done, first.total, first.text) == (STEPS + 2, 2 * STEPS, "goes on from a snapshot")
    assert len(told) > 1
    assert {event.begun for event in told} == {STEPS + 2}


def test_group_with_saved_units_goes_on_from_snapshot(inputs, store, tmp_path):
    task, undisturbed = group(), filled(tmp_path / "other", inputs)
    run(task, undisturbed)
    store.save(task.units[1].ref, undisturbed.load(task.units[1].ref, DistilledClass))
    run(task, store, kill_after=4)
    events, steps = run(task, store)
    assert steps == STEPS - 4
    assert [event.unit for event in events if event.kind == "unit"] == ["class-0", "class-2", "class-3"]
    assert images(task, store) == images(task, undisturbed)


def flip(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


DAMAGE = {
    "flipped": flip,
    "cut": lambda data: data[: len(data) // 2],
    "head": lambda data: data[:20],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_snapshot_is_ignored_with_one_note(damage, inputs, store, tmp_path):
    task, undisturbed = group(), filled(tmp_path / "other", inputs)
    run(task, undisturbed)
    run(task, store, kill_after=3)
    (path,) = notes(store)
    store.folder.write(path, DAMAGE[damage](store.folder.read(path)))
    events, steps = run(task, store)
    (told,) = [event.text for event in events if event.kind == "note"]
    assert "class-0..class-3 is ignored (it is damaged)" in told
    assert steps == STEPS
    assert images(task, store) == images(task, undisturbed)
    assert notes(store) == []


def snapshot_of(inputs, folder, task):
    other = filled(folder, inputs)
    run(task, other, kill_after=2)
    return ResumeNote(other, [unit.ref for unit in task.units], [task.units[0].ref]).read()


FOREIGN = {
    "of a student": lambda inputs, folder: pack({"network.weight": torch.zeros(2)}, {"epoch": 1, "step": 2}),
    "of fewer classes": lambda inputs, folder: snapshot_of(inputs, folder, group(classes=(0, 1))),
    "in parts": lambda inputs, folder: snapshot_of(inputs, folder, group(images_at_once=2)),
    "of a longer one": lambda inputs, folder: snapshot_of(
        inputs, folder, group(SECTION.model_copy(update={"iterations": 200}))
    ),
    "with more terms": lambda inputs, folder: snapshot_of(
        inputs, folder, group(SECTION.model_copy(update={"l2_weight": 1.0}))
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_snapshot_is_ignored_with_one_note(kind, inputs, store, tmp_path):
    task, refs = group(), [unit.ref for unit in group().units]
    ResumeNote(store, refs, refs).write(events.Snapshot(FOREIGN[kind](inputs, tmp_path / "foreign")))
    told, steps = run(task, store)
    assert len([event.text for event in told if event.kind == "note" and "is ignored" in event.text]) == 1
    assert steps == STEPS
    assert notes(store) == []


def test_other_configuration_finds_no_snapshot(inputs, store):
    run(group(), store, kill_after=3)
    _, steps = run(group(SECTION.model_copy(update={"lr": 0.2}), key="other"), store)
    assert steps == STEPS


def test_snapshots_of_units_and_groups_differ_in_name(store):
    one, two = (ArtifactRef("recover", f"class-{c}", f"r{c}") for c in range(2))
    for number, refs in enumerate(([one], [two], [one, two], [two, one])):
        note = ResumeNote(store, refs, refs)
        assert note.read() is None
        note.write(events.Snapshot(bytes([number])))
        assert ResumeNote(store, refs, refs).read() == bytes([number])


def test_two_copies_of_a_task_give_the_images_of_one(inputs, store, tmp_path):
    task, undisturbed = group(), filled(tmp_path / "other", inputs)
    run(task, undisturbed)
    run(task, store, kill_after=2)
    first, second = (run_stage(task, ArtifactStore(store.url), CPU) for _ in range(2))
    begun = [next(first), next(second)]
    assert [event.kind for event in begun] == ["progress", "progress"]
    list(first)
    list(second)  # its snapshots would stay: the work is finished
    assert images(task, store) == images(task, undisturbed)
    assert notes(store) == []


def test_unwritable_snapshots_cost_one_note(inputs, store, tmp_path, monkeypatch):
    def full(self, name, data):
        raise StorageError(f"{name} cannot be written (No space left on device); make room there")

    task, undisturbed = group(), filled(tmp_path / "other", inputs)
    run(task, undisturbed)
    monkeypatch.setattr(ArtifactStore, "write_note", full)
    told = [event.text for event in run_stage(task, store, CPU) if event.kind == "note"]
    assert len(told) == 1
    assert "goes on, but cannot leave a snapshot" in told[0]
    assert images(task, store) == images(task, undisturbed)


def test_seconds_before_the_interruption_count(store, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("wmdd.engine.snapshots.time.perf_counter", lambda: now[0])
    refs = [ArtifactRef("recover", "class-0", "r")]
    note = ResumeNote(store, refs, refs)
    now[0] = 130.0
    note.write(events.Snapshot(b"half"))
    later = ResumeNote(store, refs, refs)
    assert later.read() == b"half"
    now[0] = 140.0
    assert later.seconds == pytest.approx(40.0)


def test_divergence_before_an_interruption_is_reported(inputs, tmp_path):
    teacher, made = inputs
    measured, atoms = made[1]
    far = dataclasses.replace(atoms, support=torch.full_like(atoms.support, 1e30))
    store = filled(tmp_path / "store", (teacher, [made[0], (measured, far), *made[2:]]))
    run(group(), store, kill_after=2)
    with pytest.raises(StageError, match=r"recover of class-1 failed: .* at step 0 of 6") as caught:
        run(group(), store)
    assert not caught.value.passing
    assert [unit.ref.unit for unit in group().units if unit.ref not in store] == ["class-1"]
    assert notes(store) == []


@pytest.mark.parametrize(
    ("size", "cost", "expected"),
    [(0, 0.1, [5, 36, 67, 98]), (0, 9.0, [5, 914, 1823, 2732]), (200_000_000, 0.5, [100, 151, 202, 253])],
)
def test_snapshots_are_as_rare_as_their_cost_asks(monkeypatch, size, cost, expected):
    monkeypatch.undo()
    now = [0.0]
    monkeypatch.setattr("wmdd.outputs.time.monotonic", lambda: now[0])
    clock, due = events.SnapshotClock(size), []
    for second in range(3000):
        now[0] = float(second)
        if clock.is_due():
            due.append(second)
            clock.begin()
            now[0] += cost
            clock.end()
    assert due[:4] == expected


def test_unreadable_class_of_a_group_is_named(inputs, store):
    ref = ArtifactRef("statistics", "class-2", "s2")
    path = store.folder.path(ref.folder, store.commit_of(ref)["attempt"], "statistics.safetensors")
    store.folder.write(path, flip(store.folder.read(path)))
    with pytest.raises(StageError) as caught:
        run(group(), store)
    assert caught.value.unit == "class-0..class-3"
    assert caught.value.cause.startswith("class-2: ")
    assert "is damaged" in caught.value.cause
