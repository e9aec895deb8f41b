"""Reading images in any order; files that changed after they were indexed, and damaged ones, are named."""

import copy
import gc
import io
import itertools
import re
import warnings
import weakref

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import encoded, write_parquet
from hypothesis import HealthCheck, given, settings
from image_files import TWO_CLASSES, folder, parquet, png, refusal, saved, structs, table
from PIL import Image, features
from tables import each_of
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from wmdd.data.decoding.decoder import decode
from wmdd.data.images import StreamedImages, load_native_uint8, load_uint8, read_encoded, window_shuffle
from wmdd.data.scan import build_index
from wmdd.data.streaming import without_traceback
from wmdd.errors import ChangedError, DataError, StorageError


def test_rewritten_parquet_is_read_by_new_row_groups(tmp_path):
    for rows, first_seed in ((2, 0), (5, 50)):
        index = build_index(parquet(tmp_path, count=12, rows=rows, first_seed=first_seed), val_fraction=0.25)
        found = dict(read_encoded(index, "train", np.arange(len(index.train))))
        assert found == {i: png(first_seed + int(row)) for i, row in enumerate(index.train.row)}


READERS = {
    "load": lambda index: load_uint8(index, "train", np.arange(len(index.train)), size=8, crop_ratio=1.0),
    "native": lambda index: load_native_uint8(index, "train", np.arange(len(index.train))),
    "encoded": lambda index: list(read_encoded(index, "train", np.arange(len(index.train)))),
    "streamed": lambda index: [StreamedImages(index, "train", np.asarray)[i] for i in range(len(index.train))],
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("change", ["content", "shorter", "gone"])
def test_parquet_changed_after_indexing_is_refused(tmp_path, reader, change):
    index = build_index(parquet(tmp_path))
    if change == "gone":
        (tmp_path / "train-0.parquet").unlink()
    else:
        parquet(tmp_path, first_seed=9 if change == "content" else 0, count=6 if change == "content" else 2)
    message = refusal(lambda: READERS[reader](index))
    assert "train-0.parquet" in message
    assert ("is no readable" if change == "gone" else "has changed since the set was indexed") in message


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("change", ["content", "gone"])
def test_image_changed_after_indexing_is_refused(tmp_path, reader, change):
    index = build_index(folder(tmp_path, *TWO_CLASSES))
    file = tmp_path / "train/b/1.png"
    file.unlink() if change == "gone" else file.write_bytes(png(77))
    since = "has gone" if change == "gone" else "has changed"
    assert f"train/b/1.png {since} since the set was indexed" in refusal(lambda: READERS[reader](index))


@each_of("kind", [ChangedError, StorageError])
def test_error_of_a_loader_comes_without_traceback(kind):
    def batches():
        """Raise as a DataLoader does what one of its processes met."""
        yield torch.zeros(1), torch.zeros(1)
        try:
            raise kind("train/a/0.png has changed; run again")
        except kind:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    with pytest.raises(kind, match=r"^train/a/0\.png has changed; run again$"):
        list(without_traceback(batches()))


def damaged_inside():
    """Return a JPEG whose header and end are there, so that only decoding shows the damage."""
    whole = saved(Image.open(io.BytesIO(png(0, (80, 80)))), "JPEG")
    codes = whole.index(b"\xff\xc4") + 5
    return whole[:codes] + b"\xff" * 16 + whole[codes + 16 :]


@pytest.mark.parametrize("reader", ["load", "native", "streamed"])
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_damaged_jpeg_is_named_by_every_reader(tmp_path, reader, kind):
    whole = saved(Image.open(io.BytesIO(png(0, (80, 80)))), "JPEG")
    if kind == "folder":
        url, name = folder(tmp_path, *TWO_CLASSES), "train/a/0.png"
        for path in TWO_CLASSES:
            (tmp_path / path).write_bytes(damaged_inside() if path == name else whole)
    else:
        url, name = str(tmp_path), "train.parquet row 0"
        for split, first in (("train", damaged_inside()), ("val", whole)):
            pq.write_table(table(structs(first, whole), pa.array([0, 1])), tmp_path / f"{split}.parquet")
    index = build_index(url)
    assert f"{name} is broken" in refusal(lambda: READERS[reader](index))


def test_damaged_parquet_pages_are_named(tmp_path):
    index = build_index(parquet(tmp_path))
    path = tmp_path / "train-0.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    assert "train-0.parquet" in refusal(lambda: READERS["encoded"](index))


FORMATS = [kind for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "AVIF") if kind != "AVIF" or features.check("avif")]


WHOLE = {kind: saved(Image.open(io.BytesIO(png(1))), kind) for kind in FORMATS}


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    end=st.floats(0, 1) | st.just(1),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_bytes_decode_or_are_refused_by_name(kind, end, changes):
    data = bytearray(WHOLE[kind])
    for place, value in changes:
        data[int(place * len(data))] = value
    data = bytes(data[: max(1, round(end * len(data)))])
    try:
        image = decode(data, "spoilt.img")
    except DataError as exc:
        told = str(exc)
    else:
        told = image.mode
    assert told == "RGB" or (re.match(r"spoilt\.img (is|cannot be) .*; [a-zA-Z0-9 ,]+$", told) and "\n" not in told)


def test_every_mode_keeps_its_colours():
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    rgb = Image.fromarray(np.stack([grey, grey[::-1], grey[:, ::-1]], 2))
    palette = rgb.quantize(48)
    for image, expected in (
        (Image.fromarray(grey), np.stack([grey] * 3, 2)),
        (Image.merge("LA", [Image.fromarray(grey)] * 2), np.stack([grey] * 3, 2)),
        (Image.merge("RGBA", [*rgb.split(), Image.fromarray(grey)]), np.asarray(rgb)),
        (palette, np.asarray(palette.convert("RGB"))),
        (Image.fromarray(grey > 99), np.stack([(grey > 99) * np.uint8(255)] * 3, 2)),
    ):
        np.testing.assert_array_equal(np.asarray(decode(saved(image), "x")), expected)


def test_transparent_palette_keeps_colours_silently():
    palette = Image.open(io.BytesIO(png(2))).convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(saved(palette, transparency=bytes(range(40))), "x")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(palette.convert("RGB")))


def test_dark_sixteen_bit_grey_stays_dark():
    grey = Image.fromarray(np.full((4, 4), 200, dtype=np.uint16))
    assert np.asarray(decode(saved(grey), "x")).max() == 1


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 7), wanted=st.lists(st.integers(0, 7), max_size=15))
def test_each_row_group_is_read_in_one_stretch(tmp_path_factory, rows, wanted):
    root = tmp_path_factory.mktemp("p")
    index = build_index(parquet(root, count=12, rows=rows), val_fraction=0.2)
    found = list(read_encoded(index, "train", np.array(wanted, dtype=np.int64)))
    assert sorted(position for position, _ in found) == sorted(wanted)
    assert all(data == png(int(index.train.row[position])) for position, data in found)
    groups = [int(index.train.row[position]) // rows for position, _ in found]
    assert [group for group, _ in itertools.groupby(groups)] == sorted(set(groups))


def test_windows_hold_whole_row_groups(tmp_path):
    parquet(tmp_path, "train-0.parquet", count=20, rows=5)
    parquet(tmp_path, "train-1.parquet", count=20, rows=5, first_seed=20)
    index = build_index(parquet(tmp_path, "val-0.parquet"))
    order = window_shuffle(index, "train", np.random.default_rng(0), window_groups=2)
    assert sorted(order.tolist()) == list(range(40))
    place = list(zip(index.train.file[order].tolist(), (index.train.row[order] // 5).tolist(), strict=True))
    assert [len(set(place[start : start + 10])) for start in range(0, 40, 10)] == [2, 2, 2, 2]


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_streamed_images_work_in_spawned_workers(tmp_path, kind):
    index = build_index(folder(tmp_path, *TWO_CLASSES) if kind == "folder" else parquet(tmp_path, count=10))
    dataset = StreamedImages(index, "train", np.asarray)
    here = [dataset[i] for i in range(len(dataset))]
    assert not copy.copy(dataset)._group.cache_info().currsize
    if kind == "folder":
        return
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for (image, label), (expected, expected_label) in zip(loader, here, strict=True):
        np.testing.assert_array_equal(np.asarray(image), expected)
        assert label == expected_label


def test_streamed_images_that_are_dropped_free_their_groups(tmp_path):
    dataset = StreamedImages(build_index(parquet(tmp_path)), "train", np.asarray)
    dataset[0]
    alive = weakref.ref(dataset)
    gc.disable()
    try:
        del dataset
        assert alive() is None, "a reference cycle waits for the garbage collector"
    finally:
        gc.enable()


def test_identity_view_changes_no_pixel(tmp_path):
    for i, path in enumerate(TWO_CLASSES):
        folder(tmp_path, path)
        (tmp_path / path).write_bytes(png(i, (8, 8)))
    index = build_index(str(tmp_path))
    positions = np.array([3, 1, 1])
    native = load_native_uint8(index, "train", positions)
    assert load_uint8(index, "train", positions, size=8, crop_ratio=1.0).equal(native)
    assert load_uint8(index, "train", positions[:0], size=8, crop_ratio=1.0).shape == (0, 3, 8, 8)
    assert load_uint8(index, "train", positions, size=4, crop_ratio=0.5).equal(native[:, :, 2:6, 2:6])


def test_order_and_doubles_are_kept(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", [encoded(i) for i in range(7)], [0, 1, 0, 1, 0, 1, 1], rows=2)
    index = build_index(str(tmp_path))
    whole = load_native_uint8(index, "train", np.arange(len(index.train)))
    order = np.array([3, 0, 0, 2])
    np.testing.assert_array_equal(load_native_uint8(index, "train", order).numpy(), whole[order].numpy())
    streamed = StreamedImages(index, "train", np.asarray, cached_groups=1)
    for place in (2, 0, 1, 2):
        np.testing.assert_array_equal(streamed[place][0], whole[place].permute(1, 2, 0).numpy())


def test_window_shuffle_keeps_windows_together(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", [encoded(i) for i in range(40)], [0, 1] * 20, rows=5)
    index = build_index(str(tmp_path), val_fraction=0.01)
    order = window_shuffle(index, "train", np.random.default_rng(0), window_groups=2)
    assert sorted(order.tolist()) == list(range(len(index.train)))
    assert order.tolist() != sorted(order.tolist())
    groups = index.train.row[order] // 5
    changes = [set(groups[start : start + 9].tolist()) for start in range(0, 9, 9)]
    assert all(len(window) <= 2 for window in changes)
