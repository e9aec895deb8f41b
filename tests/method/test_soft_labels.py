"""Blocks of labels: what was written comes back, in any process and any order."""

import io
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from label_blocks import IMAGES, SEEDS, SIZE, block, fields
from torch.utils.data import DataLoader

from wmdd.config.students import RelabelConfig
from wmdd.errors import ArtifactError
from wmdd.method import soft_labels
from wmdd.method.artifacts import ImageSet
from wmdd.method.batch_sizes import batch_sizes, with_equal_steps
from wmdd.method.label_batches import draw_epoch
from wmdd.method.soft_labels import LabelBlock, SoftLabels, check_labels


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


def test_larger_sets_have_as_many_steps_in_fewer_epochs():
    section = RelabelConfig(epochs=30, batch_size=10)
    assert with_equal_steps(section, 20, 20) is section
    epochs = {images: with_equal_steps(section, 20, images).epochs for images in (40, 90, 600, 100_000)}
    assert epochs == {40: 15, 90: 7, 600: 1, 100_000: 1}
    assert with_equal_steps(section, 20, 40).batch_size == 10


def test_larger_sets_have_no_larger_batches():
    # The steps of twenty images have twenty, although a batch could have a hundred.
    section = RelabelConfig(epochs=30, batch_size=100, bn_mode="batch", micro_batch=50)
    own = with_equal_steps(section, 20, 100)
    assert (own.batch_size, own.micro_batch, own.epochs) == (20, 20, 6)
