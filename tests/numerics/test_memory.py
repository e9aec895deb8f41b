"""A group that does not fit into the device's memory is recovered in smaller tensor batches, and its classes say so."""

import pytest
import torch

from wmdd.config import RecoverConfig, RuntimeConfig
from wmdd.events import Output
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.moments import Moments
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.types import Barycenter, ClassStatistics, Teacher

SIZE, CLASSES, IPC = 16, 5, 2
CPU = Runtime.create(RuntimeConfig(device="cpu", precision="fp32", compile="off"))
FEW = RecoverConfig(iterations=3, roll_px=2, lr=0.1)


@pytest.fixture(scope="module")
def inputs():
    """Of every class: a teacher, its statistics and its barycenter."""
    with SeedTree(0).scoped():
        network = build_model("convnet2_w16", CLASSES, SIZE)
    teacher = Teacher("convnet2_w16", "auto", network.state_dict(), tuple("abcde"), 0.5, SIZE, 1.0, "half")
    found = []
    for class_id in range(CLASSES):
        real = torch.randn(6, 3, SIZE, SIZE, generator=SeedTree(class_id).torch())
        with Probe(teacher.network, CLASSES) as probe, torch.no_grad():
            _, features, seen = probe.run(real)
        statistics = ClassStatistics(class_id, features, tuple(map(Moments.of, seen)), "abcde"[class_id])
        even = torch.full((IPC,), 1 / IPC)
        atoms = Barycenter(class_id, features[:IPC], even, torch.arange(IPC), (1.0,), True, (0.0,) * 5)
        found.append({"teacher": teacher, "statistics": statistics, "barycenter": atoms})
    return found


def recover(inputs, class_ids, holds=1000):
    """The values of a group, in the order in which they are finished, on a device that holds so many images."""

    def fill(_network, arguments):
        if len(arguments[0]) > holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    units = [Unit(f"class-{c}", {"class_id": c}, inputs[c].__getitem__) for c in class_ids]
    hook = inputs[0]["teacher"].network.register_forward_pre_hook(fill)
    try:
        found = STAGES["recover"].run(FEW, units, SeedTree(7), CPU)
        return [output.value for output in found if isinstance(output, Output)]
    finally:
        hook.remove()


def test_group_that_fits_says_nothing(inputs):
    assert [value.notes for value in recover(inputs, range(CLASSES), CLASSES * IPC)] == [{}] * CLASSES


@pytest.mark.parametrize(
    ("holds", "parts"), [(6, [[0, 1], [2, 3, 4]]), (4, [[0, 1], [2], [3, 4]]), (2, [[c] for c in range(5)])]
)
def test_group_that_does_not_fit_is_run_in_parts_which_fit(inputs, holds, parts):
    values = recover(inputs, range(CLASSES), holds)
    assert [value.class_id for value in values] == list(range(CLASSES))
    told = [{"tensor_batch_classes": len(part)} for part in parts for _ in part]
    assert [value.notes for value in values] == told
    apart = [value for part in parts for value in recover(inputs, part)]
    for found, expected in zip(values, apart, strict=True):
        assert torch.equal(found.images, expected.images)


def test_class_that_does_not_fit_alone_is_an_error(inputs):
    with pytest.raises(torch.OutOfMemoryError):
        recover(inputs, range(CLASSES), 1)
