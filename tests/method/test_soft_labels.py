"""Stored label batches: what is replayed is what the teacher saw, in any process and any order."""

import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from builders import CPU
from torch.utils.data import DataLoader

from wmdd.config.students import RelabelConfig
from wmdd.data.views import apply_mix, apply_views, view_matrices
from wmdd.errors import ArtifactError
from wmdd.method import label_batches, soft_labels
from wmdd.method.artifacts import ImageSet
from wmdd.method.label_batches import (
    LabelBatch,
    batch_sizes,
    draw_epoch,
    mean_pixels,
    replay,
    replayable,
    replayed_together,
    together,
)
from wmdd.method.soft_labels import LabelBlock, SoftLabels, check_labels
from wmdd.normalization import NORMALIZATIONS
from wmdd.seeding import SeedTree

SIZE, IMAGES, CLASSES = 12, 10, 5
SEEDS = SeedTree(0).child("relabel", "distilled")
SEEN = (IMAGES, SIZE, SEEDS)
EXTREMES = [0.0, -0.0, 65504.0, -65504.0, 2**-24]


def draw(section, epoch, images=IMAGES):
    """One epoch's batches with made-up logits."""
    for batch in draw_epoch(section, epoch, images, SIZE, SEEDS):
        generator = SEEDS.child("logits", epoch, batch.batch).torch()
        logits = torch.randn(len(batch.images), CLASSES, generator=generator).half()
        logits[0] = torch.tensor(EXTREMES)
        yield replace(batch, logits=logits)


def block(section, first, epochs, images=IMAGES):
    drawn = [batch for epoch in range(first, first + epochs) for batch in draw(section, epoch, images)]
    meta = {"first_epoch": first, "epochs": epochs, "batches": len(batch_sizes(section, images)), "classes": CLASSES}
    return drawn, LabelBlock.write(drawn, meta)


def fields(batch):
    tensors = (batch.images, batch.partner, batch.logits, batch.views.box, batch.views.flip, batch.views.roll)
    return (batch.epoch, batch.batch, batch.box, *((str(item.dtype), item.tolist()) for item in tensors))


def identity(item):
    return item


@pytest.mark.parametrize("mix", ["cutmix", "none"])
def test_block_gives_back_every_field_that_was_written(mix):
    for batch_size in (1, 4, 10, 100):
        written, stored = block(RelabelConfig(batch_size=batch_size, mix=mix), 0, 3)
        read = LabelBlock.from_bytes(stored.data).read(range(len(written)))
        assert list(map(fields, read)) == list(map(fields, written))


@pytest.mark.parametrize(
    ("batch_size", "limit", "groups"),
    [(6, 2**25, [30]), (6, 1100, [20, 10]), (6, 520, [10] * 3), (6, 1, [6, 4] * 3), (2, 200, [4] * 7 + [2])],
)
def test_row_groups_hold_whole_epochs_or_a_part_of_one(batch_size, limit, groups, monkeypatch):
    """Ten labels an epoch, of 43 bytes each."""
    monkeypatch.setattr(soft_labels, "GROUP_BYTES", limit)
    written, stored = block(RelabelConfig(batch_size=batch_size), 0, 3)
    metadata = pq.read_metadata(io.BytesIO(stored.data))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == groups
    assert list(map(fields, stored.read(range(len(written))))) == list(map(fields, written))


def test_labels_of_ten_classes_take_24_bytes():
    section = RelabelConfig(batch_size=20)
    drawn = [batch for epoch in range(50) for batch in draw_epoch(section, epoch, 100, 32, SEEDS)]
    logits = torch.randn(50 * 100, 10, generator=SEEDS.torch()).half().split(20)
    batches = [replace(batch, logits=own) for batch, own in zip(drawn, logits, strict=True)]
    stored = LabelBlock.write(batches, {"first_epoch": 0, "epochs": 50, "batches": 5, "classes": 10})
    assert len(stored.data) < 24 * 50 * 100


def test_each_row_group_is_decoded_once(monkeypatch):
    monkeypatch.setattr(soft_labels, "GROUP_BYTES", 1000)  # two epochs
    labels = SoftLabels([block(RelabelConfig(batch_size=5), first, 4)[1] for first in (0, 4)])
    decoded, decode = [], LabelBlock.decode
    monkeypatch.setattr(
        LabelBlock,
        "decode",
        lambda stored, group: decoded.append((stored.meta["first_epoch"], group)) or decode(stored, group),
    )
    epochs = [labels.epoch(epoch) for epoch in range(8)]
    assert decoded == [(0, 0), (0, 1), (4, 0), (4, 1)]
    first, second = epochs[0][0], epochs[1][1]
    for name in ("images", "partner", "logits"):
        storages = {getattr(batch, name).untyped_storage().data_ptr() for batch in (first, second)}
        assert len(storages) == 1, "batches are views of what was decoded"
    labels.epoch(0)
    assert decoded[4:] == [(0, 0)], "one row group is kept, however many epochs were read"


def test_files_of_a_row_group_for_each_batch_are_read(monkeypatch):
    """As relabel wrote them up to its version 2."""
    monkeypatch.setattr(soft_labels, "GROUP_BYTES", 1)
    written, stored = block(RelabelConfig(batch_size=5), 0, 3)
    older = {name: value for name, value in stored.meta.items() if name != "batches_per_group"}
    labels = SoftLabels([LabelBlock(stored.data, older)])
    read = [fields(batch) for epoch in range(3) for batch in labels.epoch(epoch)]
    assert read == list(map(fields, written))


@pytest.mark.parametrize(
    ("batch_size", "images", "sizes"),
    [(10, 100, [10] * 10), (100, 190, [100, 90]), (1024, 10, [10]), (4, 9, [4, 5]), (4, 5, [5]), (3, 8, [3, 3, 2])],
)
def test_each_image_is_in_an_epoch_once_and_not_alone(batch_size, images, sizes):
    section = RelabelConfig(batch_size=batch_size)
    drawn = list(draw_epoch(section, 0, images, SIZE, SEEDS))
    assert batch_sizes(section, images) == [len(batch.images) for batch in drawn] == sizes
    assert sorted(torch.cat([batch.images for batch in drawn]).tolist()) == list(range(images))


def test_block_keeps_its_meta_in_the_file():
    _, stored = block(RelabelConfig(batch_size=5), 4, 2)
    assert LabelBlock.from_bytes(stored.data).meta == stored.meta
    assert stored.to_files() == {"labels.parquet": stored.data}


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\0" * 100])
def test_bytes_that_are_no_block_are_refused(data):
    with pytest.raises(ArtifactError, match="not a block of soft labels"):
        LabelBlock.from_bytes(data)


def test_labels_put_blocks_in_the_order_of_epochs():
    section = RelabelConfig(batch_size=5)
    parts = [block(section, first, epochs) for first, epochs in ((3, 1), (0, 2), (2, 1))]
    labels = SoftLabels([stored for _, stored in parts])
    assert (labels.epochs, labels.batches, len(labels)) == (4, 2, 8)
    expected = {(batch.epoch, batch.batch): fields(batch) for drawn, _ in parts for batch in drawn}
    for epoch in range(4):
        assert [fields(batch) for batch in labels.epoch(epoch)] == [expected[epoch, 0], expected[epoch, 1]]
        assert fields(labels[epoch, 1]) == expected[epoch, 1]


@pytest.mark.parametrize("spans", [[(1, 2)], [(0, 1), (2, 1)], [(0, 2), (1, 2)], [(0, 1), (0, 1)]])
def test_missing_or_doubled_epochs_are_refused(spans):
    section = RelabelConfig(batch_size=5)
    with pytest.raises(ArtifactError, match="not each epoch once"):
        SoftLabels([block(section, first, epochs)[1] for first, epochs in spans])


def test_labels_of_a_larger_set_are_refused():
    labels = SoftLabels([block(RelabelConfig(batch_size=5), 0, 1)[1]])

    def set_of(n):
        return ImageSet(torch.zeros(n, 3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(n).long(), torch.ones(n))

    check_labels(labels, set_of(IMAGES))
    with pytest.raises(ArtifactError, match="name image 9, the set has 9"):
        check_labels(labels, set_of(IMAGES - 1))


def test_workers_read_the_same_batches_in_order():
    labels = SoftLabels([block(RelabelConfig(batch_size=5), 0, 3)[1]])
    places = [(2, 1), (0, 0), (1, 1), (0, 1), (2, 0)]
    loader = DataLoader(labels, sampler=places, batch_size=None, collate_fn=identity, num_workers=2)
    assert [fields(batch) for batch in loader] == [fields(labels[place]) for place in places]


def test_labels_travel_to_spawned_workers():
    labels = SoftLabels([block(RelabelConfig(batch_size=5), 0, 2)[1]])
    labels.epoch(0)  # reading leaves nothing open that could not travel
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers:
        there = workers.submit(labels.epoch, 1).result()
    assert [fields(batch) for batch in there] == [fields(batch) for batch in labels.epoch(1)]


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
