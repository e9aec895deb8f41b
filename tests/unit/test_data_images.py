"""Odd layouts, odd files and files that change after they were indexed: read rightly, or refused by name."""

import copy
import io
import itertools
import json
import os
import warnings

import fsspec
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image, features
from torch.utils.data import DataLoader

from wmdd.data.images import StreamedImages, decode, load_native_uint8, load_uint8, read_encoded, window_shuffle
from wmdd.data.index import build_index, listing_signature
from wmdd.errors import DataError

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(seed, size=(6, 8)):
    return saved(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)))


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def folder(root, *paths):
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(seed))
    return str(root)


def table(images, labels, names=("a", "b"), columns=("image", "label")):
    made = pa.table({columns[0]: images, columns[1]: labels})
    facts = {"info": {"features": {columns[1]: {"names": list(names or ()), "_type": "ClassLabel"}}}}
    return made.replace_schema_metadata({"huggingface": json.dumps(facts)}) if names else made


def structs(*data):
    return pa.array([{"bytes": one, "path": None} for one in data], HF)


def parquet(root, file="train-0.parquet", *, count=6, first_seed=0, names=("a", "b"), rows=2):
    data = structs(*(png(first_seed + i) for i in range(count)))
    pq.write_table(table(data, pa.array([i % 2 for i in range(count)]), names), root / file, row_group_size=rows)
    return str(root)


def refusal(call):
    with pytest.raises(DataError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


TWO_CLASSES = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in "ab" for i in range(2)]


# Layouts


def test_linked_class_folder_is_read_like_a_real_one(tmp_path):
    folder(tmp_path / "elsewhere", "deep/0.png", "1.png")
    url = folder(tmp_path / "set", "train/a/0.png", "val/a/0.png", "val/b/0.png")
    (tmp_path / "set/train/b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    index = build_index(url)
    assert index.class_names == ("a", "b")
    assert sorted(index.train.files) == ["train/a/0.png", "train/b/1.png", "train/b/deep/0.png"]
    assert load_native_uint8(index, "train", np.arange(3)).shape == (3, 3, 6, 8)


def test_link_to_a_folder_above_ends(tmp_path):
    url = folder(tmp_path, *TWO_CLASSES)
    before = len(build_index(url).train)
    (tmp_path / "train/a/up").symlink_to(tmp_path / "train/a", target_is_directory=True)
    assert len(build_index(url).train) <= 2 * before


def test_signature_follows_a_link_to_its_file(tmp_path):
    url = folder(tmp_path / "set", *TWO_CLASSES)
    folder(tmp_path, "real.png")
    (tmp_path / "set/train/a/9.png").symlink_to(tmp_path / "real.png")
    before = listing_signature(url)
    assert listing_signature(url) == before
    os.utime(tmp_path / "real.png", (1, 1))
    assert listing_signature(url) != before


@pytest.mark.parametrize("name", ["val", "test"])
def test_validation_folder_without_training_folder_is_not_trained_on(tmp_path, name):
    url = folder(tmp_path, *(f"{name}/{c}/{i}.png" for c in "ab" for i in range(3)))
    assert f"has {name}/CLASS folders but no images in train/CLASS" in refusal(lambda: build_index(url))


def test_single_test_parquet_is_refused_in_a_folder_and_read_by_name(tmp_path):
    parquet(tmp_path, "test-00000-of-00001.parquet")
    assert "is named train-*" in refusal(lambda: build_index(str(tmp_path)))
    assert build_index(str(tmp_path / "test-00000-of-00001.parquet")).val_held_out


@pytest.mark.parametrize("file", ["train/7.png", "val/7.png"])
def test_image_outside_class_folders_is_refused(tmp_path, file):
    url = folder(tmp_path, *TWO_CLASSES, file)
    assert f"{file} lies in no class folder" in refusal(lambda: build_index(url))


def test_notes_hidden_files_and_unlabelled_test_images_are_ignored(tmp_path):
    notes = ["train/labels.csv", "val/notes.txt", "README.md", "train/a/.DS_Store", "train/b/Thumbs.db", "test/1.png"]
    index = build_index(folder(tmp_path, *TWO_CLASSES, *notes))
    assert (len(index.train), len(index.val)) == (4, 4)


@pytest.mark.parametrize("place", ["train/train-0.parquet", "data/train-0.parquet", "train.parquet"])
def test_parquet_layouts(tmp_path, place):
    for file in (place, place.replace("train", "validation")):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        parquet(tmp_path, file)
    index = build_index(str(tmp_path))
    assert (index.train.files, len(index.train), len(index.val)) == ((place,), 6, 6)


def test_memory_parquet_reads_every_image():
    fs = fsspec.filesystem("memory")
    with fs.open("/pq/train-0.parquet", "wb") as out:
        pq.write_table(table(structs(*(png(i) for i in range(8))), pa.array([0, 1] * 4)), out, row_group_size=3)
    index = build_index("memory://pq", val_fraction=0.25)
    assert (len(index.train), len(index.val)) == (6, 2)
    for split in ("train", "val"):
        for position, data in read_encoded(index, split, np.arange(len(getattr(index, split)))):
            assert data == png(int(getattr(index, split).row[position]))


# Columns, labels, classes


def test_plain_binary_column_and_other_names(tmp_path):
    made = table(pa.array([png(0), png(1)] * 2, pa.binary()), pa.array([0, 1] * 2), columns=("img", "fine_label"))
    pq.write_table(made, tmp_path / "one.parquet")
    assert build_index(str(tmp_path / "one.parquet")).class_names == ("a", "b")


def test_declared_names_with_text_labels_keep_the_declared_order(tmp_path):
    made = table(structs(*map(png, range(4))), pa.array(["x", "y"] * 2), names=("y", "x"))
    pq.write_table(made, tmp_path / "one.parquet")
    index = build_index(str(tmp_path / "one.parquet"), val_fraction=0.5)
    assert index.class_names == ("y", "x")
    assert {int(row) % 2 for row in index.train.row[index.train.of_class(0)]} == {1}


def test_integer_labels_without_names_sort_as_numbers(tmp_path):
    pq.write_table(table(structs(*map(png, range(4))), pa.array([10, 9] * 2), names=None), tmp_path / "one.parquet")
    assert build_index(str(tmp_path / "one.parquet")).class_names == ("9", "10")


def test_column_of_another_type_is_refused(tmp_path):
    pq.write_table(table(structs(png(0)), pa.array([[0]])), tmp_path / "train.parquet")
    assert "has the columns image, label; expected" in refusal(lambda: build_index(str(tmp_path)))


def test_files_that_number_classes_differently_are_refused(tmp_path):
    parquet(tmp_path, "train-0.parquet")
    parquet(tmp_path, "val-0.parquet", names=("b", "a"))
    assert "val-0.parquet declares other class names" in refusal(lambda: build_index(str(tmp_path)))


def test_null_image_and_null_label_are_named_with_their_number(tmp_path):
    images = pa.array([{"bytes": png(0), "path": None}, None, {"bytes": png(1), "path": None}], HF)
    pq.write_table(table(images, pa.array([0, 1, None])), tmp_path / "train.parquet")
    message = refusal(lambda: build_index(str(tmp_path)))
    assert "train.parquet row 1 holds no image bytes (and 1 more" in message


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_classes_left_out_are_not_read(tmp_path, kind):
    if kind == "folder":
        url = folder(tmp_path, *TWO_CLASSES, "train/c/0.png", "val/d/0.png")
        (tmp_path / "train/c/0.png").write_bytes(b"no image")
    else:
        url = str(tmp_path)
        images = structs(png(0), png(1), b"no image", png(2), png(3))
        pq.write_table(table(images, pa.array([0, 1, 2, 0, 1]), names=("a", "b", "c")), tmp_path / "train.parquet")
    index = build_index(url, classes=("b", "a"))
    assert index.class_names == ("b", "a")
    assert np.bincount(index.train.label).tolist() == ([2, 2] if kind == "folder" else [1, 1])


def test_class_that_two_folders_of_ids_share_cannot_be_chosen_by_name(tmp_path):
    pq.write_table(
        table(structs(*map(png, range(4))), pa.array([0, 1] * 2), ("crane", "crane")), tmp_path / "t.parquet"
    )
    url = str(tmp_path / "t.parquet")
    assert np.bincount(build_index(url).train.label).tolist() == [1, 1]
    assert "occurs twice in" in refusal(lambda: build_index(url, classes=("crane",)))


def test_held_out_images_do_not_depend_on_names_order_or_other_classes(tmp_path):
    seeds = {"a": range(10), "b": range(10, 17), "c": range(20, 31)}
    for name, chosen in seeds.items():
        for place, seed in enumerate(chosen):
            folder(tmp_path / "x", f"{name}/{place}.png")
            (tmp_path / f"x/{name}/{place}.png").write_bytes(png(seed))
            if name != "c":
                folder(tmp_path / "y", f"{name}/{99 - place}.png")
                (tmp_path / f"y/{name}/{99 - place}.png").write_bytes(png(seed))
    one, other = (build_index(str(tmp_path / place), val_fraction=0.3) for place in "xy")
    for class_id, count in enumerate((3, 3)):
        held = [set(index.val.digest[index.val.of_class(class_id)].tolist()) for index in (one, other)]
        assert held[0] == held[1]
        assert len(held[0]) == count
        assert not held[0] & set(one.train.digest.tolist())


@pytest.mark.parametrize("workers", [1, 5])
def test_progress_ends_at_the_total(tmp_path, workers):
    seen = []
    build_index(folder(tmp_path, *TWO_CLASSES), workers=workers, on_progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (8, 8)


def test_no_validation_split_and_nothing_to_hold_out_is_refused(tmp_path):
    url = folder(tmp_path, "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    assert "set data.val_fraction above 0" in refusal(lambda: build_index(url, val_fraction=0))


def test_unknown_builtin_set_is_refused_before_it_is_listed():
    assert "there is builtin:digits" in refusal(lambda: listing_signature("builtin:letters"))


# Files that change


def test_rewritten_parquet_is_read_by_its_new_row_groups(tmp_path):
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
def test_parquet_that_changed_since_it_was_indexed_is_refused(tmp_path, reader, change):
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
def test_image_file_that_changed_since_it_was_indexed_is_refused(tmp_path, reader, change):
    index = build_index(folder(tmp_path, *TWO_CLASSES))
    file = tmp_path / "train/b/1.png"
    file.unlink() if change == "gone" else file.write_bytes(png(77))
    since = "has gone" if change == "gone" else "has changed"
    assert f"train/b/1.png {since} since the set was indexed" in refusal(lambda: READERS[reader](index))


@pytest.mark.parametrize("reader", ["load", "native", "streamed"])
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_truncated_jpeg_is_named_by_every_decoding_reader(tmp_path, reader, kind):
    whole = saved(Image.open(io.BytesIO(png(0, (64, 64)))), "JPEG")
    if kind == "folder":
        url, name = folder(tmp_path, *TWO_CLASSES), "train/a/0.png"
        for path in TWO_CLASSES:
            (tmp_path / path).write_bytes(whole[:-200] if path == name else whole)
    else:
        url, name = str(tmp_path), "train.parquet row 0"
        for split, first in (("train", whole[:-200]), ("val", whole)):
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


# Decoding

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
    assert told == "RGB" or (told.startswith("spoilt.img is broken") and "\n" not in told)


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


def test_palette_with_transparency_keeps_its_colours_without_a_warning():
    palette = Image.open(io.BytesIO(png(2))).convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(saved(palette, transparency=bytes(range(40))), "x")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(palette.convert("RGB")))


def test_dark_sixteen_bit_grey_stays_dark():
    grey = Image.fromarray(np.full((4, 4), 200, dtype=np.uint16))
    assert np.asarray(decode(saved(grey), "x")).max() == 1


def test_orientation_tags_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(saved(Image.new("RGB", (8, 4)), "JPEG", exif=exif), "x").size == (8, 4)


# Order and access


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
def test_streamed_images_work_in_spawned_workers_and_leave_their_cache_behind(tmp_path, kind):
    index = build_index(folder(tmp_path, *TWO_CLASSES) if kind == "folder" else parquet(tmp_path, count=10))
    dataset = StreamedImages(index, "train", np.asarray)
    here = [dataset[i] for i in range(len(dataset))]
    assert not copy.copy(dataset)._groups
    if kind == "folder":
        return
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for (image, label), (expected, expected_label) in zip(loader, here, strict=True):
        np.testing.assert_array_equal(np.asarray(image), expected)
        assert label == expected_label


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
