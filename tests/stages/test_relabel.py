"""Blocks of labels: what does not depend on which batches are shown to the teacher together."""

import pytest
import torch
from builders import CPU

from wmdd.config.students import RelabelConfig
from wmdd.method import label_batches
from wmdd.method.artifacts import DistilledClass
from wmdd.method.soft_labels import SoftLabels
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.outputs import Output, Progress
from wmdd.seeding import SeedTree
from wmdd.stages import Unit
from wmdd.stages.plans.relabel import RELABEL, Params

SIZE = 16


def relabel(first, epochs):
    """Return the labels of six images in batches of four and two, and the epochs of each progress."""
    pixels = torch.randint(0, 256, (3, 2, 3, SIZE, SIZE), generator=SeedTree(0).torch(), dtype=torch.uint8)
    with SeedTree(0).scoped():
        weights = dict(build_model("convnet1_w8", 3, SIZE).state_dict())
    inputs = {
        "teacher": Teacher("convnet1_w8", "auto", weights, tuple("abc"), 0.5, SIZE, 1.0, "half"),
        "classes": [DistilledClass(i, pixels[i], torch.full((2,), 0.5), class_name="abc"[i]) for i in range(3)],
    }
    unit = Unit("block", Params("distilled", first, epochs), inputs.__getitem__)
    yielded = list(RELABEL.run(RelabelConfig(epochs=4, batch_size=4), [unit], SeedTree(5), CPU))
    (block,) = [item.value for item in yielded if isinstance(item, Output)]
    return block, [(item.done, item.total) for item in yielded if isinstance(item, Progress)]


def labelled(blocks):
    labels = SoftLabels(blocks)
    return [batch for epoch in range(labels.epochs) for batch in labels.epoch(epoch)]


@pytest.mark.parametrize(
    ("together", "progress"), [(4, [1, 2, 3, 4]), (10, [1, 3, 4]), (12, [2, 4]), (100, [4])], ids=[4, 10, 12, 100]
)
def test_labels_do_not_depend_on_what_is_shown_together(together, progress, monkeypatch):
    (expected, _), apart = relabel(0, 4), [relabel(first, 2)[0] for first in (0, 2)]
    monkeypatch.setattr(label_batches, "REPLAYED_VALUES", 3 * SIZE**2 * together)
    block, shown = relabel(0, 4)
    assert shown == [(epoch, 4) for epoch in progress]
    for other in ([block], apart):
        for batch, alone in zip(labelled(other), labelled([expected]), strict=True):
            assert (batch.epoch, batch.batch, batch.box) == (alone.epoch, alone.batch, alone.box)
            assert torch.equal(batch.images, alone.images)
            assert torch.equal(batch.logits, alone.logits)
