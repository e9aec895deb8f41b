"""Blocks of labels: what does not depend on which batches are shown to the teacher together."""

import dataclasses

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
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import Unit
from wmdd.stages import relabel as relabelling
from wmdd.stages.plans.relabel import RELABEL, Params

SIZE = 16


def relabel(first, epochs, runtime=CPU, **changes):
    """Return the labels of six images in batches of four and two, and the epochs of each progress."""
    pixels = torch.randint(0, 256, (3, 2, 3, SIZE, SIZE), generator=SeedTree(0).torch(), dtype=torch.uint8)
    with SeedTree(0).scoped():
        weights = dict(build_model("convnet1_w8", 3, SIZE).state_dict())
    inputs = {
        "teacher": Teacher("convnet1_w8", "auto", weights, tuple("abc"), 0.5, SIZE, 1.0, "half"),
        "classes": [DistilledClass(i, pixels[i], torch.full((2,), 0.5), class_name="abc"[i]) for i in range(3)],
    }
    unit = Unit("block", Params("distilled", first, epochs), inputs.__getitem__)
    yielded = list(RELABEL.run(RelabelConfig(epochs=4, batch_size=4, **changes), [unit], SeedTree(5), runtime))
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


@pytest.mark.parametrize(("bn_mode", "sizes"), [("running", [24]), ("batch", [4, 2] * 4)])
def test_batches_share_a_pass_where_a_gpu_has_room(bn_mode, sizes, monkeypatch):
    """With bn_mode=batch each batch passes alone."""
    (expected, _), seen = relabel(0, 4, bn_mode=bn_mode), []
    network = Runtime.network

    def watched(self, module, steps, parts=1):
        module.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
        return network(self, module, steps, parts)

    monkeypatch.setattr(Runtime, "network", watched)
    block, _ = relabel(0, 4, dataclasses.replace(CPU, device_bytes=2**30), bn_mode=bn_mode)
    assert seen == sizes
    for batch, alone in zip(labelled([block]), labelled([expected]), strict=True):
        assert torch.equal(batch.images, alone.images)
        torch.testing.assert_close(batch.logits, alone.logits, rtol=2e-3, atol=2e-3)


def test_no_pass_has_more_images_than_a_gpu_has_room_for(monkeypatch):
    """However small the images are, so that many of them are computed together elsewhere."""
    seen, replay = [], relabelling.replay

    def watched(group, *rest):
        seen.append(sum(len(batch.images) for batch in group))
        return replay(group, *rest)

    monkeypatch.setattr(relabelling, "images_per_pass", lambda network, size, runtime, least: 2 * least)
    monkeypatch.setattr(relabelling, "replay", watched)
    relabel(0, 4)
    assert seen == [6, 6, 6, 6]
