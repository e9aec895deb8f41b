"""A device's memory: full, given back, and not filled by what is kept."""

import gc

import pytest
import torch
from gpu_stages import DEVICE, ON_GPU, SECTION, open_runtime

from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.outputs import Output
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.plans.recover import Params
from wmdd.training.accuracy import images_per_pass

pytestmark = pytest.mark.gpu
SIZE, CLASSES, IPC = (64, 8, 8) if ON_GPU else (16, 8, 2)
MODEL = "resnet18" if ON_GPU else "convnet2_w16"


@pytest.fixture(scope="module")
def units():
    """Of every class, as the stage gets it."""
    teacher = untrained_teacher(MODEL, SIZE, CLASSES)
    found = []
    for target in random_targets(teacher, IPC):
        inputs = {"teacher": teacher, "statistics": target.statistics, "barycenter": target.barycenter}
        class_id = target.statistics.class_id
        found.append(Unit(f"class-{class_id}", Params(class_id), inputs.__getitem__))
    return found


def recover(units):
    """What the stage makes of a group, in the order in which it is finished."""
    section = SECTION.model_copy(update={"iterations": 3})
    events = STAGES["recover"].run(section, units, SeedTree(7), open_runtime(precision="fp32"))
    return [event.value for event in events if isinstance(event, Output)]


def peak_bytes(call):
    """The most memory that tensors held, and that the allocator took from the device, during a call."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


@pytest.fixture
def room_for_half(units):
    """Limit the device so that half of the classes fit, and not all; a CPU refuses more images than half have."""
    if not ON_GPU:

        def fill(_network, arguments):
            if len(arguments[0]) > CLASSES // 2 * IPC:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        hook = units[0].load("teacher").network.register_forward_pre_hook(fill)
        yield
        hook.remove()
        return
    # At its limit the allocator gives back what no tensor holds and tries again: an H200 ran the whole group in three
    # quarters of what it had reserved before. So the limit lies below what the tensors need.
    whole, _ = peak_bytes(lambda: recover(units))
    _, half = peak_bytes(lambda: recover(units[: CLASSES // 2]))
    assert half < 0.97 * whole
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((whole + half) / 2 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_group_that_does_not_fit_is_run_in_halves(units, room_for_half):
    values = recover(units)
    assert [value.class_id for value in values] == list(range(CLASSES))
    assert [value.notes for value in values] == [{"tensor_batch_classes": CLASSES // 2}] * CLASSES
    apart = recover(units[: CLASSES // 2]) + recover(units[CLASSES // 2 :])
    for found, expected in zip(values, apart, strict=True):
        assert torch.equal(found.images, expected.images)


def test_one_group_after_another_takes_no_more_memory(units):
    taken = []
    for start in (0, 2, 4, 6):
        recover(units[start : start + 2])
        gc.collect()
        taken.append(torch.cuda.memory_allocated() if ON_GPU else 0)
    assert taken[1:] == taken[1:2] * 3


def test_images_that_are_used_again_are_on_the_device():
    kept = open_runtime().keep(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    assert kept.device.type == DEVICE


def test_images_that_pass_together_take_their_share_of_the_memory():
    # Of larger images, 250 are as many as have fewer than 2^31 values in all layers together.
    runtime, size = open_runtime(precision="bf16"), SIZE // 2
    network = runtime.place(untrained_teacher(MODEL, size, CLASSES).network)
    images = runtime.images(torch.zeros(images_per_pass(network, size, runtime), 3, size, size))

    def evaluate():
        with torch.no_grad(), runtime.autocast():
            network(images)

    if not ON_GPU:
        assert len(images) == 250
        evaluate()
        return
    assert len(images) > 250
    assert peak_bytes(evaluate)[1] <= runtime.device_bytes / 4
