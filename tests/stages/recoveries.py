"""What tests of the stage "recover" share: its inputs in memory or in a store, and a device that may be full."""

import contextlib
import dataclasses
import functools

import pytest
import torch
from builders import CPU

from wmdd.config.recovery import RecoverConfig
from wmdd.engine.run import run_stage
from wmdd.engine.task import PlannedUnit, StageTask
from wmdd.method.artifacts import Barycenter, ClassStatistics, DistilledClass
from wmdd.method.moments import Moments
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.outputs import SnapshotClock
from wmdd.seeding import SeedTree
from wmdd.stages.plans.recover import Params
from wmdd.storage.store import ArtifactRef, ArtifactStore

SIZE, CLASSES, IPC, STEPS = 8, 4, 3, 6
SECTION = RecoverConfig(iterations=STEPS, roll_px=1, lr=0.1)
TEACHER = ArtifactRef("pretrain", "teacher", "t")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Killed(BaseException):
    """As a signal that ends the process."""


@functools.cache
def inputs(model="convnet2_w8", classes=CLASSES, size=SIZE, ipc=IPC):
    """The teacher, and by class its statistics and barycenter."""
    with SeedTree(0).scoped():
        network = build_model(model, classes, size)
    names = tuple("abcdefgh"[:classes])
    teacher, measured = Teacher(model, "auto", network.state_dict(), names, 0.5, size, 1.0, "half"), []
    for class_id, name in enumerate(names):
        real = torch.randn(6, 3, size, size, generator=SeedTree(class_id).torch())
        with Probe(teacher.network, classes) as probe, torch.no_grad():
            _, features, seen = probe.run(real)
        even = torch.full((ipc,), 1 / ipc)
        atoms = Barycenter(class_id, features[:ipc], even, torch.arange(ipc), (1.0,), True, (0.0,) * 5)
        measured.append((ClassStatistics(class_id, features, tuple(map(Moments.of, seen)), name), atoms))
    return teacher, measured


@contextlib.contextmanager
def device_that_holds(images, network, error=FULL):
    """In the block a step of more images fails; yield the list of the numbers of images of each other step."""
    steps = []

    def count(_network, arguments):
        if len(arguments[0]) > images:
            raise error
        steps.append(len(arguments[0]))

    hook = network.register_forward_pre_hook(count)
    try:
        yield steps
    finally:
        hook.remove()


def filled(path, measured=None):
    """A store with the inputs."""
    store, (teacher, default) = ArtifactStore(str(path)), inputs()
    store.save(TEACHER, teacher)
    for class_id, (statistics, atoms) in enumerate(measured or default):
        store.save(ArtifactRef("statistics", f"class-{class_id}", f"s{class_id}"), statistics)
        store.save(ArtifactRef("barycenter", f"class-{class_id}", f"b{class_id}"), atoms)
    return store


def group(section=SECTION, key="r", classes=range(CLASSES), **params):
    """A task; with fewer `steps` than all, its keys differ, and the task of the whole optimisation goes on from it."""
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
    """Run a task, with a snapshot at each step, on a device that has memory for `holds` images.

    It ends after `kill_after` snapshots. Return its events and the number of steps that were computed.
    """
    written, seen = [], []
    keep = ArtifactStore.write_note

    def write(self, name, data):
        keep(self, name, data)
        written.append(name)
        if len(written) == kill_after:
            raise Killed

    store = ArtifactStore(store.url)  # of another process, which remembers nothing
    network = store.load(TEACHER, Teacher, keep=True).network
    with device_that_holds(holds, network) as steps, pytest.MonkeyPatch.context() as patch:
        patch.setattr(SnapshotClock, "is_due", lambda self: True)
        patch.setattr(ArtifactStore, "write_note", write)
        try:
            for event in run_stage(task, store, CPU):
                seen.append(event)
        except Killed:
            assert kill_after is not None
    return seen, len(steps)


def undisturbed(task, folder, **options):
    """A store in which the task ran without interruption, and the number of its steps."""
    store = filled(folder / "undisturbed")
    _, steps = run(task, store, **options)
    return store, steps


def images(task, store):
    return {unit.ref.unit: store.load(unit.ref, DistilledClass).to_files() for unit in task.units}


def assert_same_images(task, store, folder):
    """The images are those of a run without interruption."""
    assert images(task, store) == images(task, undisturbed(task, folder)[0])


def notes(store):
    return [entry["name"] for entry in store.folder.entries("notes")]


def flip(data):
    """Bytes of which one bit is flipped."""
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
