"""How an index is made: the same images give the same index; what is wrong is named in one line."""

import os
from pathlib import Path

import fsspec
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import encoded, small_set, write_folder, write_parquet
from hypothesis import HealthCheck, given, settings
from image_files import TWO_CLASSES, folder, png, refusal
from PIL import Image
from tables import each_of

from wmdd.data.images import load_native_uint8, load_uint8
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.errors import DataError

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


def pixels_by_class(index, split="train"):
    part = getattr(index, split)
    found = {}
    for class_id, name in enumerate(index.class_names):
        images = load_native_uint8(index, split, part.of_class(class_id))
        found[name] = sorted(image.numpy().tobytes() for image in images)
    return found


@each_of("val", ["val", "validation", "valid", "test"])
def test_folder_finds_classes_and_the_validation_split(tmp_path, val):
    index = build_index(small_set(tmp_path, splits=("train", val)))
    assert index.class_names == ("ant", "bee")
    assert (len(index.train), len(index.val), index.val_held_out) == (6, 6, False)
    assert index.train.uniform_size() == (8, 8)
    assert index.train.image_name(0) == "train/ant/0.png"


def test_validation_of_classes_alone_is_held_out(tmp_path):
    url = write_folder(tmp_path, {f"{c}/{i}.png": encoded(i + ord(c)) for c in "xy" for i in range(10)})
    first, again = build_index(url, val_fraction=0.3), build_index(url, val_fraction=0.3)
    assert (len(first.train), len(first.val), first.val_held_out) == (14, 6, True)
    assert first.digest("val") == again.digest("val")
    assert not set(first.train.digest.tolist()) & set(first.val.digest.tolist())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.lists(st.integers(0, 2), min_size=3, max_size=12).filter(lambda v: set(v) == {0, 1, 2}),
    rows=st.integers(1, 5),
)
def test_parquet_and_folder_hold_the_same_classes(tmp_path_factory, labels, rows):
    root = tmp_path_factory.mktemp("set")
    names = ("cat", "dog", "eel")
    data = [encoded(i) for i in range(len(labels))]
    for split in ("train", "test"):
        write_parquet(root / "p" / f"{split}-00000-of-00001.parquet", data, labels, names, rows)
        for i, (image, label) in enumerate(zip(data, labels, strict=True)):
            write_folder(root / "f", {f"{split}/{names[label]}/{i:03d}.png": image})
    parquet, folder = build_index(str(root / "p")), build_index(str(root / "f"))
    assert parquet.class_names == folder.class_names == names
    assert pixels_by_class(parquet) == pixels_by_class(folder)
    assert [parquet.class_digest(c) for c in range(3)] == [folder.class_digest(c) for c in range(3)]


def test_undeclared_labels_name_the_classes(tmp_path):
    write_parquet(tmp_path / "one.parquet", [encoded(i) for i in range(6)], ["b", "a"] * 3)
    index = build_index(str(tmp_path / "one.parquet"))
    assert index.class_names == ("a", "b")
    assert index.val_held_out


def test_signature_sees_added_and_touched_files(tmp_path):
    url = small_set(tmp_path)
    signatures = {list_files(url).signature}
    os.utime(tmp_path / "train/ant/0.png", (1, 1))
    signatures.add(list_files(url).signature)
    (tmp_path / "train/ant/9.png").write_bytes(encoded(9))
    signatures.add(list_files(url).signature)
    assert len(signatures) == 3


def test_classes_are_kept_in_the_given_order(tmp_path):
    url = small_set(tmp_path, classes=("ant", "bee", "cow"))
    index = build_index(url, classes=("cow", "ant"))
    assert index.class_names == ("cow", "ant")
    assert len(index.train) == 6
    assert index.train.image_name(int(index.train.of_class(0)[0])).startswith("train/cow/")


def test_memory_url_reads_like_a_folder():
    fs = fsspec.filesystem("memory")
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            fs.pipe_file(f"/zoo/{split}/{name}/0.png", encoded(ord(name[0])))
    index = build_index("memory://zoo")
    assert (index.class_names, len(index.train)) == (("ant", "bee"), 2)
    assert load_native_uint8(index, "val", np.array([1])).shape == (1, 3, 8, 8)


def test_builtin_digits_hold_all_images():
    index = build_index("builtin:digits")
    assert len(index.train) + len(index.val) == 1797
    assert index.class_names == tuple("0123456789")


def broken_sets(root):
    good = {f"{s}/{c}/0.png": encoded(i) for i, (s, c) in enumerate((s, c) for s in ("train", "val") for c in "ab")}
    return {
        "missing": (str(root / "nowhere"), "no such folder"),
        "no images": (write_folder(root / "1", {"notes.txt": b"x"}), "holds no images"),
        "no image": (write_folder(root / "2", {**good, "train/a/1.png": b"text"}), r"train/a/1\.png is no image"),
        "validation class": (
            write_folder(root / "3", {**good, "val/c/0.png": encoded(7)}),
            "class c has no training folder",
        ),
        "no validation": (
            write_folder(root / "4", {**good, "train/c/0.png": encoded(7)}),
            "class c has no validation images",
        ),
        "one image": (
            write_folder(root / "5", {"a/0.png": encoded(1), "b/0.png": encoded(2)}),
            "class a has one training image",
        ),
    }


@each_of("case", ["missing", "no images", "no image", "validation class", "no validation", "one image"])
def test_broken_folder_is_refused_in_one_line(tmp_path, case):
    url, message = broken_sets(tmp_path)[case]
    with pytest.raises(DataError, match=message) as error:
        build_index(url)
    assert url in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_class_folder_is_refused(tmp_path):
    url = small_set(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="class empty has no train images"):
        build_index(url)


def test_unknown_class_names_near_ones(tmp_path):
    with pytest.raises(DataError, match=r"data\.classes=aunt.*did you mean ant\?$"):
        build_index(small_set(tmp_path), classes=("aunt",))
    with pytest.raises(DataError, match=r"data\.classes=zebra: not in .*; the classes are ant, bee$"):
        build_index(small_set(tmp_path), classes=("zebra",))
    with pytest.raises(DataError, match=r"data\.classes=ant bee: not in .*; several are written ant,bee$"):
        build_index(small_set(tmp_path), classes=("ant bee",))


@each_of(
    ("change", "message"),
    [
        ({"labels": [0, 5]}, "row 1 has label 5, which is none of 2 classes"),
        ({"data": [None, None]}, r"row 0 holds no image bytes \(and 1 more"),
        ({"data": [b"no", b"no"]}, "row 0 is no image"),
    ],
)
def test_broken_parquet_rows_are_named(tmp_path, change, message):
    values = {"data": [encoded(0), encoded(1)], "labels": [0, 1], **change}
    write_parquet(tmp_path / "train-0.parquet", values["data"], values["labels"], ("a", "b"))
    with pytest.raises(DataError, match=message):
        build_index(str(tmp_path))


def test_parquet_of_other_columns_lists_what_it_has(tmp_path):
    pq.write_table(pa.table({"text": ["x"], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"has the columns text \(string\), label \(int64\)"):
        build_index(str(tmp_path))


def test_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "train-0.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"train-0\.parquet is no readable Parquet"):
        build_index(str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.exists(), reason="../shared/data is absent")
def test_cifar10_parquet_is_indexed_whole():
    index = build_index(str(CIFAR))
    assert (len(index.train), len(index.val), len(index.class_names)) == (50_000, 10_000, 10)
    assert index.train.uniform_size() == (32, 32)
    assert np.bincount(index.train.label).tolist() == [5000] * 10


def test_held_out_images_depend_on_content_alone(tmp_path):
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


@each_of("workers", [1, 5])
def test_progress_ends_at_the_total(tmp_path, workers):
    seen = []
    build_index(folder(tmp_path, *TWO_CLASSES), workers=workers, on_progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (8, 8)


def test_set_without_any_validation_is_refused(tmp_path):
    url = folder(tmp_path, "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    assert "set data.val_fraction above 0" in refusal(lambda: build_index(url, val_fraction=0))


def test_unknown_builtin_set_is_refused():
    assert "there is builtin:digits" in refusal(lambda: list_files("builtin:letters"))


def greys(root, values, dtype=np.float32):
    """Write 32-bit images, each filled with a value, by the paths below both splits."""
    for split in ("train", "val"):
        for number, (name, value) in enumerate(values):
            place = root / split / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8 + number), value, dtype)).save(place / f"{number}.tiff")
    return str(root)


@each_of(
    ("dtype", "values"),
    [(np.float32, (1, 191)), (np.float32, (0.5, 200)), (np.int32, (100, 40_000))],
    ids=["float, whole", "float", "integers"],
)
def test_set_of_two_scales_is_refused(tmp_path, dtype, values):
    url = greys(tmp_path, [("dark", values[0]), ("light", values[1])], dtype)
    with pytest.raises(
        DataError, match=r"dark/0\.tiff holds values up to .*light/1\.tiff up to .*convert them to 8 or 16"
    ):
        build_index(url)


def test_black_images_have_any_scale(tmp_path):
    url = greys(tmp_path, [("dark", 0), ("dark", 10), ("light", 191), ("light", 2)])
    index = build_index(url)
    shown = load_uint8(index, "train", np.arange(4), size=8, crop_ratio=1.0)
    assert sorted(np.unique(shown).tolist()) == [0, 2, 10, 191]
