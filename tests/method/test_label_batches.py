"""Label batches: how they are drawn, and that a replay shows what the teacher saw."""

import io
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from builders import CPU
from label_blocks import CLASSES, IMAGES, SEEDS, SEEN, SIZE, block, draw, fields

from wmdd.config.students import RelabelConfig
from wmdd.data.views import apply_mix, apply_views, view_matrices
from wmdd.errors import ArtifactError
from wmdd.method import label_batches
from wmdd.method.label_batches import (
    LabelBatch,
    draw_epoch,
    mean_pixels,
    replay,
    replayable,
    replayed_together,
    together,
)
from wmdd.method.soft_labels import LabelBlock, SoftLabels
from wmdd.normalization import NORMALIZATIONS
from wmdd.seeding import SeedTree


def test_batches_that_divide_the_set_are_of_one_size():
    for batch_size in (1, 2, 5, 10):
        section = RelabelConfig(batch_size=batch_size)
        rows = [batch.images for batch in draw_epoch(section, 3, IMAGES, SIZE, SEEDS)]
        assert all(len(images) == batch_size for images in rows)
        assert sorted(torch.cat(rows).tolist()) == list(range(IMAGES))


def test_set_smaller_than_a_batch_is_one_batch():
    (batch,) = draw_epoch(RelabelConfig(batch_size=100), 0, IMAGES, SIZE, SEEDS)
    assert sorted(batch.images.tolist()) == list(range(IMAGES))
    assert sorted(batch.partner.tolist()) == list(range(IMAGES))


def test_epoch_is_drawn_from_its_own_seeds():
    section = RelabelConfig(batch_size=5)
    again = [fields(batch) for batch in draw_epoch(section, 1, IMAGES, SIZE, SEEDS)]
    assert again == [fields(batch) for batch in draw_epoch(section, 1, IMAGES, SIZE, SEEDS)]
    other = [fields(batch)[3:] for batch in draw_epoch(section, 2, IMAGES, SIZE, SEEDS)]
    assert [item[3:] for item in again] != other


def pixels_of_a_set():
    shape = (IMAGES, 3, SIZE, SIZE)
    return torch.randint(0, 256, shape, generator=SeedTree(1).torch(), dtype=torch.uint8)


def test_replay_of_a_stored_batch_is_the_drawn_ones():
    written, stored = block(RelabelConfig(batch_size=5), 0, 2)
    pixels, normalization = pixels_of_a_set(), NORMALIZATIONS["half"]
    for drawn, read in zip(written, stored.read(range(4)), strict=True):
        first, again = (read.replay(pixels, normalization, CPU) for _ in range(2))
        assert torch.equal(first, again)
        assert torch.equal(first, drawn.replay(pixels, normalization, CPU))


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_batches_replayed_together_are_those_replayed_alone(mix, monkeypatch):
    drawn = [batch for epoch in range(2) for batch in draw_epoch(RelabelConfig(batch_size=4, mix=mix), epoch, *SEEN)]
    arguments = (pixels_of_a_set(), NORMALIZATIONS["half"], CPU)
    alone = [batch.replay(*arguments) for batch in drawn]
    together = list(replay(drawn, *arguments))
    assert [len(images) for images in together] == [4, 4, 2] * 2
    for images, other in zip(together, alone, strict=True):
        assert torch.equal(images, other)
        assert images.stride() == other.stride()
    for limit, counts in ((10**6, [3, 3]), (8 * 3 * SIZE**2, [2, 1] * 2), (1, [1] * 6)):
        monkeypatch.setattr(label_batches, "REPLAYED_VALUES", limit)
        groups = list(replayed_together(drawn, SIZE))
        assert [len(group) for group in groups] == counts
        assert [batch for group in groups for batch in group] == drawn
        assert all(group[0].epoch == group[-1].epoch for group in groups)


@pytest.mark.parametrize(("limit", "dtype"), [(IMAGES * 3 * SIZE**2, torch.float32), (100, torch.uint8)])
def test_small_sets_are_normalised_once_to_the_same_bits(limit, dtype, monkeypatch):
    monkeypatch.setattr(label_batches, "NORMALIZED_VALUES", limit)
    drawn = [batch for epoch in range(2) for batch in draw_epoch(RelabelConfig(batch_size=4), epoch, *SEEN)]
    pixels, normalization = pixels_of_a_set(), NORMALIZATIONS["cifar10"]
    ready = replayable(pixels, "none", normalization, CPU)
    assert ready.dtype == dtype
    assert torch.equal(pixels, pixels_of_a_set())
    replays = (replay(drawn, images, normalization, CPU) for images in (ready, pixels))
    assert all(map(torch.equal, *replays))


def test_images_that_torchvision_changes_stay_as_they_are():
    pixels = pixels_of_a_set()
    assert replayable(pixels, "augmix", NORMALIZATIONS["half"], CPU) is pixels


def test_batches_of_several_epochs_are_put_together():
    drawn = [batch for epoch in range(3) for batch in draw_epoch(RelabelConfig(batch_size=4), epoch, *SEEN)]
    assert list(together(drawn, SIZE)) == [drawn]
    assert list(replayed_together(drawn, SIZE)) == [drawn[:3], drawn[3:6], drawn[6:]]


def test_replay_pastes_finished_views():
    (batch,) = draw_epoch(RelabelConfig(batch_size=10), 5, IMAGES, SIZE, SEEDS)
    batch = replace(batch, box=(2, 3, 9, 11))
    pixels = pixels_of_a_set()
    shown = batch.replay(pixels, NORMALIZATIONS["half"], CPU)
    views = apply_views(pixels[batch.images].float() / 127.5 - 1, *view_matrices(batch.views, (SIZE, SIZE), SIZE))
    torch.testing.assert_close(shown, apply_mix(views, batch.partner, batch.box), atol=1e-5, rtol=0)
    torch.testing.assert_close(shown[:, :, 2:9, 3:11], views[batch.partner, :, 2:9, 3:11], atol=1e-5, rtol=0)


def augmented_block(**changes):
    section, pixels = RelabelConfig(batch_size=5, augment="randaugment"), pixels_of_a_set()
    drawn = [batch for epoch in range(2) for batch in draw(section, epoch)]
    seen = [replace(batch, brightness=mean_pixels(batch.changed(pixels, CPU))) for batch in drawn]
    meta = {"first_epoch": 0, "epochs": 2, "batches": 2, "classes": CLASSES}
    return seen, SoftLabels([LabelBlock.write([replace(batch, **changes) for batch in seen], meta)]), pixels


def test_stored_changes_are_those_that_the_teacher_saw():
    seen, labels, pixels = augmented_block()
    read = [batch for epoch in (1, 0) for batch in labels.epoch(epoch)]
    shown = [batch.replay(pixels, NORMALIZATIONS["half"], CPU) for batch in read]
    assert all(map(torch.equal, shown, [seen[i].replay(pixels, NORMALIZATIONS["half"], CPU) for i in (2, 3, 0, 1)]))
    plain = replace(read[0], augment="none", brightness=torch.zeros(0)).replay(pixels, NORMALIZATIONS["half"], CPU)
    assert not torch.equal(shown[0], plain)
    assert len({batch.augment_seed for batch in read}) == 4


def test_changes_of_another_torchvision_are_refused():
    _, labels, pixels = augmented_block(augment_seed=12345)
    with pytest.raises(ArtifactError, match="randaugment of this torchvision differs"):
        labels.epoch(0)[0].replay(pixels, NORMALIZATIONS["half"], CPU)


def test_labels_without_changes_store_none():
    with_changes = draw_epoch(RelabelConfig(batch_size=10, augment="augmix"), 0, IMAGES, SIZE, SEEDS)
    without = draw_epoch(RelabelConfig(batch_size=10), 0, IMAGES, SIZE, SEEDS)
    assert [fields(batch) for batch in with_changes] == [fields(batch) for batch in without]
    _, stored = block(RelabelConfig(batch_size=5), 0, 1)
    assert not {"augment_seed", "brightness"} & set(pq.read_schema(io.BytesIO(stored.data)).names)


def test_mixup_stores_a_share_for_each_batch():
    section, pixels = RelabelConfig(batch_size=10, mix="mixup"), pixels_of_a_set()
    drawn, stored = block(section, 0, 3)
    assert len({batch.share for batch in drawn}) == 3
    assert all(0 < batch.share < 1 for batch in drawn)
    for batch, read in zip(drawn, LabelBlock.from_bytes(stored.data).read(range(3)), strict=True):
        assert read.share == batch.share
        shown = read.replay(pixels, NORMALIZATIONS["half"], CPU)
        assert torch.equal(shown, batch.replay(pixels, NORMALIZATIONS["half"], CPU))
        plain = replace(batch, share=1.0).replay(pixels, NORMALIZATIONS["half"], CPU)
        torch.testing.assert_close(shown, plain * batch.share + plain[batch.partner] * (1 - batch.share))


def test_replay_leaves_the_image_set_alone():
    (batch,) = draw_epoch(RelabelConfig(batch_size=10), 0, IMAGES, SIZE, SEEDS)
    pixels = pixels_of_a_set()
    batch.replay(pixels, NORMALIZATIONS["half"], CPU)
    assert torch.equal(pixels, pixels_of_a_set())


def test_drawn_batch_has_no_logits_yet():
    batch = next(draw_epoch(RelabelConfig(batch_size=5), 0, IMAGES, SIZE, SEEDS))
    assert isinstance(batch, LabelBatch)
    assert tuple(batch.logits.shape) == (5, 0)
