"""What students learn from: stored soft labels with the mass of each image, or class names."""

import dataclasses
import math
import types

import pytest
import torch
import torch.nn.functional as F
from builders import CPU, normal

from wmdd.config.students import EvaluateConfig, RelabelConfig
from wmdd.data.geometry import Geometry
from wmdd.method.artifacts import DistilledClass, ImageSet
from wmdd.method.label_batches import draw_epoch
from wmdd.method.losses import soft_label_loss
from wmdd.method.soft_labels import LabelBlock
from wmdd.normalization import NORMALIZATIONS
from wmdd.seeding import SeedTree
from wmdd.stages import Unit
from wmdd.stages.fixed_labels import FixedLessons, share_of
from wmdd.stages.plans.evaluate import Params
from wmdd.stages.supervision import HardLessons, SoftLessons

PIXELS = NORMALIZATIONS["half"]


class Sums(torch.nn.Module):
    """A network of three classes: means of each channel."""

    def forward(self, images):
        return 5 * images.mean(dim=(2, 3))


JUDGE = types.SimpleNamespace(network=Sums(), pixels=PIXELS, image_size=8)


def image_set():
    pixels = torch.randint(0, 256, (6, 3, 8, 8), generator=SeedTree(4).torch(), dtype=torch.uint8)
    return ImageSet.of([DistilledClass(c, pixels[2 * c : 2 * c + 2], torch.tensor([0.25, 0.75])) for c in range(3)])


def lessons(kind, section, **views):
    hard_views = RelabelConfig(**{"epochs": 2, "batch_size": 4, "mix": "none", **views})
    params = Params("net", 0, "distilled", Geometry(8, 1.0, "half"), "wmdd", "hash", views=hard_views)
    relabel = RelabelConfig(epochs=2, batch_size=6)
    meta = {"schema": 1, "first_epoch": 0, "epochs": 2, "batches": 1, "classes": 3}
    batches = [batch for epoch in range(2) for batch in draw_epoch(relabel, epoch, 6, 8, SeedTree(0))]
    block = LabelBlock.write([dataclasses.replace(batch, logits=normal(6, 3).half()) for batch in batches], meta)
    unit = Unit("student", params, {"labels": [block], "teacher": JUDGE}.__getitem__)
    return kind(section, unit, image_set(), SeedTree(7), CPU)


def test_soft_labels_weigh_images_and_add_the_class():
    made = lessons(SoftLessons, EvaluateConfig(ce_weight=0.5))
    ((_, teacher, masses, class_ids),) = made.batches(0)
    assert masses.mean() == pytest.approx(1.0)
    assert sorted(class_ids.tolist()) == [0, 0, 1, 1, 2, 2]
    logits = normal(6, 3, seed=9)
    expected = soft_label_loss(logits, teacher, masses, 20.0) + 0.5 * F.cross_entropy(logits, class_ids)
    torch.testing.assert_close(made.loss(logits, teacher, masses, class_ids), expected)
    squared = lessons(SoftLessons, EvaluateConfig(loss="mse")).loss(logits, teacher, masses, class_ids)
    by_hand = sum(masses[i] * ((logits[i] - teacher[i].float()) ** 2).mean() for i in range(6)) / 6
    torch.testing.assert_close(squared, by_hand)


def test_temperature_is_that_of_the_epoch():
    section = EvaluateConfig(temperature_decay=0.1, temperature_every=1, temperature_squared=True)
    made = lessons(SoftLessons, section)
    for epoch, temperature in ((0, 20.0), (1, 2.0), (0, 20.0)):
        ((_, teacher, masses, class_ids),) = made.batches(epoch)
        logits = normal(6, 3, seed=9)
        expected = temperature**2 * soft_label_loss(logits, teacher, masses, temperature)
        torch.testing.assert_close(made.loss(logits, teacher, masses, class_ids), expected)


def test_fitted_temperature_learns_from_the_loss():
    made = lessons(SoftLessons, EvaluateConfig(student_temperature="fitted"))
    ((_, teacher, masses, class_ids),) = made.batches(0)
    logits, (log_ratio,) = normal(6, 3, seed=9), made.learned.parameters()
    log_ratio.data.fill_(-1.0)
    loss = made.loss(logits, teacher, masses, class_ids)
    expected = soft_label_loss(logits, teacher, masses, 20.0, torch.tensor(20 / math.e))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    shares = torch.softmax(logits * math.e / 20, 1)
    labels = torch.softmax(teacher.float() / 20, 1)
    by_hand = (((labels - shares) * logits * math.e / 20).sum(1) * masses).mean()
    torch.testing.assert_close(log_ratio.grad, by_hand)


def test_loss_has_nothing_to_learn_by_default():
    for section in (EvaluateConfig(), EvaluateConfig(loss="mse", student_temperature="fitted")):
        assert not lessons(SoftLessons, section).learned.state_dict()
    assert not lessons(HardLessons, EvaluateConfig(labels="hard")).learned.state_dict()


def test_hard_labels_name_the_class_of_each_image():
    made = lessons(HardLessons, EvaluateConfig(labels="hard"), crop_scale=(1.0, 1.0), flip=False, batch_size=6)
    ((views, class_ids),) = made.batches(0)
    whole = PIXELS.normalize(image_set().images)
    for image, class_id in zip(views, class_ids, strict=True):
        row = int((whole - image).abs().amax(dim=(1, 2, 3)).argmin())
        assert (whole[row] - image).abs().max() < 1e-5
        assert int(class_id) == row // 2
    logits = normal(6, 3)
    torch.testing.assert_close(made.loss(logits, class_ids), F.cross_entropy(logits, class_ids))


def whole_labels():
    return (5 * PIXELS.normalize(image_set().images).mean(dim=(2, 3))).half().float()


def test_fixed_label_of_an_image_is_that_of_the_whole_image():
    made = lessons(FixedLessons, EvaluateConfig(labels="fixed", ce_weight=0.5), crop_scale=(0.1, 0.5), batch_size=6)
    ((views, labels, masses, class_ids),) = made.batches(0)
    assert views.shape == (6, 3, 8, 8)
    rows = [int((whole_labels() - label).abs().sum(dim=1).argmin()) for label in labels]
    assert sorted(rows) == list(range(6))
    assert torch.equal(labels, whole_labels()[rows])
    assert class_ids.tolist() == [row // 2 for row in rows]
    assert masses.tolist() == [(0.5, 1.5)[row % 2] for row in rows]
    logits = normal(6, 3, seed=9)
    expected = soft_label_loss(logits, labels, masses, 20.0) + 0.5 * F.cross_entropy(logits, class_ids)
    torch.testing.assert_close(made.loss(logits, labels, masses, class_ids), expected)


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_label_of_a_mixed_view_is_the_mixture_of_both_labels(mix, loss):
    section = EvaluateConfig(labels="fixed", loss=loss, temperature=3.0)
    made = lessons(FixedLessons, section, mix=mix, batch_size=6, crop_scale=(1.0, 1.0), flip=False)
    mixed = 0
    for epoch in range(2):
        ((views, labels, *_),) = made.batches(epoch)
        (batch,) = draw_epoch(made._views, epoch, 6, 8, SeedTree(7).child("views"))
        share, own = share_of(batch, 8), whole_labels()[batch.images]
        other = own[batch.partner]
        if loss == "mse":
            torch.testing.assert_close(labels, share * own + (1 - share) * other)
        else:
            wanted = share * (own / 3).softmax(1) + (1 - share) * (other / 3).softmax(1)
            torch.testing.assert_close((labels / 3).softmax(1), wanted)
        # The share is that of the pixels of the image itself.
        pixels = PIXELS.normalize(image_set().images)[batch.images]
        kept = (views == pixels).all(dim=1).float().mean(dim=(1, 2))
        if mix == "cutmix":
            moved = batch.partner != torch.arange(6)
            torch.testing.assert_close(kept[moved], torch.full_like(kept[moved], share))
        else:
            torch.testing.assert_close(views, share * pixels + (1 - share) * pixels[batch.partner])
        mixed += share < 1
    assert mixed
