"""Real sets in every layout: the same images give the same index; what is wrong is named in one line."""

import io
import json
import os
from pathlib import Path

import fsspec
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision.transforms.v2.functional as F
from hypothesis import HealthCheck, given, settings
from PIL import Image
from tables import each_of

from wmdd.data.decoding import pixels
from wmdd.data.decoding.decoder import decode
from wmdd.data.decoding.pixels import evaluation_crop
from wmdd.data.images import StreamedImages, image_name, load_native_uint8, load_uint8, window_shuffle
from wmdd.data.index import DatasetIndex
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.errors import DataError

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


def encoded(seed, size=(8, 8), mode="RGB", kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def write_folder(root, images):
    """Write {split/class/name: bytes}."""
    for path, data in images.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return str(root)


def small_set(root, classes=("ant", "bee"), per_class=3, splits=("train", "val")):
    names = [(s, c, i) for s in splits for c in classes for i in range(per_class)]
    return write_folder(root, {f"{s}/{c}/{i}.png": encoded(hash((s, c, i)) % 2**32) for s, c, i in names})


def write_parquet(path, data, labels, names=None, rows=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array(
        [{"bytes": b, "path": None} for b in data], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": images, "label": pa.array(labels)})
    if names:
        facts = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    pq.write_table(table, path, row_group_size=rows)


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
    assert image_name(index, "train", 0) == "train/ant/0.png"


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


def test_index_survives_the_round_trip(tmp_path):
    index = build_index(small_set(tmp_path))
    again = DatasetIndex.from_bytes(index.to_bytes())
    assert (again.url, again.kind, again.class_names, again.val_held_out) == (
        index.url,
        "folder",
        ("ant", "bee"),
        False,
    )
    for split in ("train", "val"):
        assert again.digest(split) == index.digest(split)
        for name in ("file", "row", "label", "height", "width", "digest", "orientation"):
            np.testing.assert_array_equal(getattr(getattr(again, split), name), getattr(getattr(index, split), name))
            assert getattr(getattr(again, split), name).dtype == getattr(getattr(index, split), name).dtype


def test_class_digest_depends_on_its_own_class_only(tmp_path):
    before = build_index(small_set(tmp_path))
    (tmp_path / "train/bee/0.png").write_bytes(encoded(999))
    after = build_index(str(tmp_path))
    assert before.class_digest(0) == after.class_digest(0)
    assert before.class_digest(1) != after.class_digest(1)


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
    assert image_name(index, "train", int(index.train.of_class(0)[0])).startswith("train/cow/")


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


@each_of(("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("LA", "PNG")])
def test_every_mode_decodes_to_rgb(mode, kind):
    image = decode(encoded(1, mode=mode, kind=kind), "x")
    assert (image.mode, image.size) == ("RGB", (8, 8))


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 65535], [32896, 257]], dtype=np.uint16)).save(out, "PNG")
    np.testing.assert_array_equal(np.asarray(decode(out.getvalue(), "x"))[:, :, 0], [[0, 255], [128, 1]])


def test_evaluation_view_crops_the_resized_centre(tmp_path):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, 10:30] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    url = write_folder(tmp_path, {f"{s}/{c}/0.png": out.getvalue() for s in ("train", "val") for c in "ab"})
    images = load_uint8(build_index(url), "train", np.array([0]), size=10, crop_ratio=1.0)
    assert images.shape == (1, 3, 10, 10)
    # Antialiasing blends the outermost pixel with the black beside the crop.
    assert images.min() > 200
    assert images[:, :, :, 1:-1].min() == 255


@each_of(("size", "crop"), [((20, 40), 10), ((33, 21), 16), ((9, 9), 24), ((50, 47), 32)])
def test_evaluation_crop_agrees_with_torchvision(size, crop):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    expected = F.center_crop(F.resize(image, [round(crop / 0.875)], antialias=True), [crop, crop])
    np.testing.assert_array_equal(np.asarray(evaluation_crop(image, crop, 0.875)), np.asarray(expected))


def test_centre_of_a_very_long_image_is_the_same(monkeypatch):
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 400, 3), dtype=np.uint8))
    for image, ratio in ((strip, 0.875), (strip.transpose(Image.Transpose.ROTATE_90), 1.0)):
        whole = np.asarray(pixels.evaluation_crop(image, 32, ratio), int)
        with monkeypatch.context() as patched:
            patched.setattr(pixels, "_LARGEST_PX", 1000)
            cut = np.asarray(pixels.evaluation_crop(image, 32, ratio), int)
        assert cut.shape == whole.shape == (32, 32, 3)
        assert np.abs(cut - whole).max() <= 1


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


@pytest.mark.skipif(not CIFAR.exists(), reason="../shared/data is absent")
def test_cifar10_parquet_is_indexed_whole():
    index = build_index(str(CIFAR))
    assert (len(index.train), len(index.val), len(index.class_names)) == (50_000, 10_000, 10)
    assert index.train.uniform_size() == (32, 32)
    assert np.bincount(index.train.label).tolist() == [5000] * 10
