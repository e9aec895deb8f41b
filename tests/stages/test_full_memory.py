"""A group that does not fit into the device's memory is recovered in smaller tensor batches, and its classes say so."""

import dataclasses
import weakref

import pytest
import recoveries
import torch
from builders import CPU

from wmdd.config.recovery import RecoverConfig
from wmdd.outputs import Output, Progress
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages import recover as stage
from wmdd.stages.plans.recover import Params

SIZE, CLASSES, IPC = 16, 5, 2
FEW = RecoverConfig(iterations=3, roll_px=2, lr=0.1)


@pytest.fixture(scope="module")
def inputs():
    """Of every class: a teacher, its statistics and its barycenter."""
    teacher, measured = recoveries.inputs("convnet2_w16", CLASSES, SIZE, IPC)
    return [{"teacher": teacher, "statistics": statistics, "barycenter": atoms} for statistics, atoms in measured]


# As torch says it itself, and as the libraries below it do.
FULL = (
    recoveries.FULL,
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory"),
)


def recover(inputs, class_ids, holds=1000, error=FULL[0]):
    """The values of a group, in the order of their end, on a device that has memory for `holds` images."""
    units = [Unit(f"class-{c}", Params(c), inputs[c].__getitem__) for c in class_ids]
    with recoveries.device_that_holds(holds, inputs[0]["teacher"].network, error):
        outputs = STAGES["recover"].run(FEW, units, SeedTree(7), CPU)
        return [output.value for output in outputs if isinstance(output, Output)]


def test_group_that_fits_says_nothing(inputs):
    assert [value.notes for value in recover(inputs, range(CLASSES), CLASSES * IPC)] == [{}] * CLASSES


@pytest.mark.parametrize(
    ("holds", "parts"), [(6, [[0, 1], [2, 3, 4]]), (4, [[0, 1], [2], [3, 4]]), (2, [[c] for c in range(5)])]
)
def test_group_that_does_not_fit_is_run_in_parts(inputs, holds, parts):
    values = recover(inputs, range(CLASSES), holds)
    assert [value.class_id for value in values] == list(range(CLASSES))
    told = [{"tensor_batch_classes": len(part)} for part in parts for _ in part]
    assert [value.notes for value in values] == told
    apart = [value for part in parts for value in recover(inputs, part)]
    for found, expected in zip(values, apart, strict=True):
        assert torch.equal(found.images, expected.images)


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_device_is_known_in_whatever_words(inputs, error):
    values = recover(inputs, range(CLASSES), 6, error)
    assert [value.notes["tensor_batch_classes"] for value in values] == [2, 2, 3, 3, 3]


def test_memory_of_the_failed_step_is_freed(inputs, monkeypatch):
    """An error holds the frames that it came through, and so all their tensors, until its handler ends."""
    network, seen, freed = inputs[0]["teacher"].network, [], []

    def fill(_network, arguments):
        seen.append(weakref.ref(arguments[0]))
        if len(arguments[0]) > CLASSES // 2 * IPC:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(stage, "forget_decoded", lambda: freed.append("decoded"))
    monkeypatch.setattr(stage, "free_memory", lambda: freed.append(seen[-1]() is None))
    units = [Unit(f"class-{c}", Params(c), inputs[c].__getitem__) for c in range(CLASSES - 1)]
    hook = network.register_forward_pre_hook(fill)
    try:
        list(STAGES["recover"].run(FEW, units, SeedTree(7), CPU))
    finally:
        hook.remove()
    assert freed == ["decoded", True]


def test_other_errors_are_not_taken_for_a_full_device(inputs):
    with pytest.raises(RuntimeError, match="illegal memory access"):
        recover(inputs, range(CLASSES), 6, RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_parts_of_a_class_are_independent(inputs):
    """For methods whose images match statistics of all classes: an image or some of each class at once."""
    section = FEW.model_copy(update={"bn_target": "global"})

    def run(given):
        units = [Unit(f"class-{c}", Params(c, images_at_once=1), given[c].__getitem__) for c in range(CLASSES)]
        return list(STAGES["recover"].run(section, units, SeedTree(7), CPU))

    news = run(inputs)
    assert [(item.done, item.total) for item in news if isinstance(item, Progress)] == [(0, 6), (3, 6)]
    values = [item.value for item in news if isinstance(item, Output)]
    assert {value.images.shape for value in values} == {(IPC, 3, SIZE, SIZE)}
    assert {(len(value.losses), *value.notes) for value in values} == {(FEW.iterations,)}
    others = [item.value for item in run(list(map(other_second, inputs))) if isinstance(item, Output)]
    for value, other in zip(values, others, strict=True):
        assert torch.equal(value.images[0], other.images[0])
        assert not torch.equal(value.images[1], other.images[1])
        assert not torch.equal(value.images[0], value.images[1])


def other_second(given):
    """The inputs of a class with another second atom."""
    atoms = given["barycenter"]
    return given | {
        "barycenter": dataclasses.replace(atoms, support=torch.stack([atoms.support[0], -atoms.support[1]]))
    }


def test_class_that_does_not_fit_alone_is_an_error(inputs):
    with pytest.raises(torch.OutOfMemoryError, match=r"one class do not fit .*; lower ipc"):
        recover(inputs, range(CLASSES), 1)
