"""Odd layouts, columns, labels and classes: read rightly, or refused by name."""

import os
import shutil

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import HF, TWO_CLASSES, folder, parquet, png, refusal, structs, table
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.images import load_native_uint8, read_encoded
from wmdd.data.index import limit
from wmdd.data.layouts.sources import list_files
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.errors import DataError
from wmdd.storage.filesystem import open_fs
from wmdd.storage.store import ArtifactStore

# Layouts


def test_class_folder_that_is_no_text_is_named(tmp_path):
    url = folder(tmp_path, *(f"{split}/{name}/0.png" for split in ("train", "val") for name in ("bar", "caf\udce9")))
    message = refusal(lambda: build_index(url))
    assert message.isprintable()
    assert r"class caf\xe9: the name is not UTF-8; rename it, for instance to café" in message
    url = parquet(tmp_path, names=("a", "\ud83d"))  # as JSON may hold it
    assert r"class \ud83d: the name is no text" in refusal(lambda: build_index(f"{url}/train-0.parquet"))


def test_locale_that_cannot_read_a_class_is_blamed(tmp_path):
    url = folder(tmp_path / "set", *(f"{split}/{name}/0.png" for split in ("train", "val") for name in ("a", "b")))
    with pytest.MonkeyPatch.context() as patch:
        # What Python reads for the UTF-8 name café where the locale is ASCII.
        patch.setattr("wmdd.data.scan.class_folders", lambda url, listing: {"a", "caf\udcc3\udca9"})
        message = refusal(lambda: build_index(url))
    assert r"class caf\xc3\xa9: this locale is not UTF-8" in message
    assert "PYTHONUTF8=1" in message


def test_image_files_whose_names_are_no_text_are_read(tmp_path):
    url = folder(tmp_path / "b\udce9", *(f"{split}/{name}/\udce9.png" for split in ("train", "val") for name in "ab"))
    index = build_index(url)
    again = type(index).from_bytes(index.to_bytes())
    assert again.train.files == ("train/a/\udce9.png", "train/b/\udce9.png")
    assert load_native_uint8(again, "train", np.arange(2)).shape == (2, 3, 6, 8)


def test_linked_class_folder_is_read_like_a_real_one(tmp_path):
    folder(tmp_path / "elsewhere", "deep/0.png", "1.png")
    url = folder(tmp_path / "set", "train/a/0.png", "val/a/0.png", "val/b/0.png")
    (tmp_path / "set/train/b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    index = build_index(url)
    assert index.class_names == ("a", "b")
    assert sorted(index.train.files) == ["train/a/0.png", "train/b/1.png", "train/b/deep/0.png"]
    assert load_native_uint8(index, "train", np.arange(3)).shape == (3, 3, 6, 8)


def leave(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(9))


# What wmdd leaves behind in a folder, by what wrote it; none of it has the mark of a newer store.
OWN = {
    "run": ("run.json", "config.yaml", "metrics.jsonl", "images/train-00000-of-00001.parquet", "images.png"),
    "begun run": ("run.json", "config.yaml"),
    "comparison": ("config.yaml", "compare.json", "compare.png", "wmdd-ipc-1/run.json", "wmdd-ipc-1/config.yaml"),
    "begun ranking": ("config.yaml", "metrics.jsonl"),
    "ranking": ("config.yaml", "metrics.jsonl", "ranking.json", "ranking.md"),
    "search": ("config.yaml", "tune.json", "trials.parquet", "ray/trials/a/result.png"),
    "store": (f"select/{'0a' * 16}/commit.json", f"select/{'0a' * 16}/5f/images.png", "notes/a.parquet"),
    "export": (".wmdd-export", "a/00000.png", "b/00000.png"),
    "new store": (".wmdd-store", f"index/{'0a' * 16}/5f/train.parquet"),
}


@each_of("what", OWN)
@each_of("place", ["runs/a", "out", "train/out", "train/a/deep"])
def test_folders_of_wmdd_are_no_part_of_the_set(tmp_path, what, place):
    plain = folder(
        tmp_path / "plain", *(f"train/{c}/{i}.png" for c in "ab" for i in range(3)), "val/a/0.png", "val/b/0.png"
    )
    url = folder(
        tmp_path / "set", *(f"train/{c}/{i}.png" for c in "ab" for i in range(3)), "val/a/0.png", "val/b/0.png"
    )
    leave(tmp_path / "set" / place, *OWN[what])
    index, expected = build_index(url), build_index(plain)
    assert (index.kind, index.class_names) == ("folder", ("a", "b"))
    assert (index.train.files, index.val.files) == (expected.train.files, expected.val.files)


@each_of("what", OWN)
def test_folders_of_wmdd_are_no_classes(tmp_path, what):
    url = folder(tmp_path / "set", *(f"{c}/{i}.png" for c in "ab" for i in range(3)))
    leave(tmp_path / "set/runs/x", *OWN[what])
    (tmp_path / "set/runs/store/notes").mkdir(parents=True)
    assert build_index(url).class_names == ("a", "b")
    for name in (what, "a"):  # the set may be what a run made, or be called anything
        assert list_files(folder(tmp_path / name / "set", "a/0.png", "b/0.png")).files["train"] == (
            "a/0.png",
            "b/0.png",
        )


def test_new_run_below_a_set_is_no_part_of_it(tmp_path, monkeypatch):
    folder(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(3)))
    monkeypatch.chdir(tmp_path)
    config = override(recipe("cifar10"), {"data.path": "."})
    first, ref = load_index(config, ArtifactStore("runs/store"), lambda done, total: None)
    assert first.class_names == ("a", "b")
    (tmp_path / "runs/x").mkdir()
    leave(tmp_path / "runs/x", *OWN["run"])
    assert load_index(config, ArtifactStore("runs/store"), lambda done, total: None)[1] == ref


def test_empty_class_folder_is_still_named(tmp_path):
    url = folder(tmp_path / "set", *(f"{c}/{i}.png" for c in "ab" for i in range(3)))
    (tmp_path / "set/c").mkdir()
    with pytest.raises(DataError, match="class c has no train images"):
        build_index(url)


def test_parquet_that_a_run_made_can_be_a_set(tmp_path):
    (tmp_path / "run/images").mkdir(parents=True)
    parquet(tmp_path / "run/images", "train-00000-of-00001.parquet", count=12)
    leave(tmp_path / "run", "run.json", "config.yaml")
    assert build_index(str(tmp_path / "run/images")).kind == "parquet"


def test_archive_is_read_like_its_folder(tmp_path):
    paths = [f"train/{c}/{i}.png" for c in "ab" for i in range(60)] + ["val/a/0.png", "val/b/0.png"]
    url = folder(tmp_path / "set", *paths)
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "set")
    packed, plain = build_index(f"zip://set::{tmp_path}/packed.zip"), build_index(url)
    assert packed.train.files == plain.train.files
    everything = np.arange(120)
    images = [load_native_uint8(index, "train", everything) for index in (packed, plain)]
    assert (images[0] == images[1]).all()


def test_archive_is_listed_before_threads_share_it(tmp_path):
    folder(tmp_path / "set", *TWO_CLASSES)
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "set")
    fs, root = open_fs(f"zip://set::{tmp_path}/packed.zip")
    assert root == "set"
    assert f"set/{TWO_CLASSES[0]}" in fs.dir_cache


def test_link_to_a_folder_above_ends(tmp_path):
    url = folder(tmp_path, *TWO_CLASSES)
    before = len(build_index(url).train)
    (tmp_path / "train/a/up").symlink_to(tmp_path / "train/a", target_is_directory=True)
    assert len(build_index(url).train) <= 2 * before


def test_signature_follows_a_link_to_its_file(tmp_path):
    url = folder(tmp_path / "set", *TWO_CLASSES)
    folder(tmp_path, "real.png")
    (tmp_path / "set/train/a/9.png").symlink_to(tmp_path / "real.png")
    before = list_files(url).signature
    assert list_files(url).signature == before
    os.utime(tmp_path / "real.png", (1, 1))
    assert list_files(url).signature != before


def test_folder_of_sets_is_no_set(tmp_path):
    paths = [f"{name}/{split}/{c}/0.png" for name in ("cats", "dogs") for split in ("train", "val") for c in "ab"]
    url = folder(tmp_path / "sets", *paths)
    told = refusal(lambda: build_index(url))
    assert f"cats is a set, and no class; give {url}/cats" in told
    assert build_index(f"{url}/cats").class_names == ("a", "b")


def test_parquet_of_several_sets_is_no_set(tmp_path):
    for place in ("cats", "dogs/data"):
        (tmp_path / place).mkdir(parents=True)
        parquet(tmp_path, f"{place}/train-0.parquet")
    assert "as of several sets (cats, dogs/data); give one of them" in refusal(lambda: build_index(str(tmp_path)))


@each_of("places", [("train/part-0", "train/part-1"), ("data/train/label=0", "data/train/label=1")])
def test_parquet_in_parts_below_train_is_one_set(tmp_path, places):
    for place in (*places, "validation"):
        (tmp_path / place).mkdir(parents=True)
        parquet(tmp_path, f"{place}/0.parquet")
    index = build_index(str(tmp_path))
    assert (len(index.train), len(index.val)) == (12, 6)


def test_held_out_part_of_a_limited_set_is_within_it(tmp_path):
    url = folder(
        tmp_path / "set", *(f"train/{c}/{i}.png" for c in "ab" for i in range(30)), "val/a/0.png", "val/b/0.png"
    )
    store = ArtifactStore(str(tmp_path / "store"))

    def digests(**more):
        config = override(recipe("digits"), {"data.path": url, "data.per_class": 20, **more})
        index, _ = load_index(config, store, lambda done, total: None)
        return set(index.train.digest.tolist()), set(index.val.digest.tolist())

    (whole, _), (train, held) = digests(), digests(**{"data.holdout": 0.2})
    assert train | held == whole
    assert (len(train), len(held)) == (32, 8)


def test_limited_set_keeps_the_first_by_digest(tmp_path):
    url = folder(
        tmp_path / "set", *(f"{split}/{c}/{i}.png" for split in ("train", "val") for c in "ab" for i in range(5))
    )
    whole = build_index(url)
    few = limit(whole, 2)
    for split in ("train", "val"):
        kept, all_of = getattr(few, split), getattr(whole, split)
        assert kept.row.tolist() == sorted(kept.row.tolist())
        for class_id in (0, 1):
            digests = sorted(all_of.digest[all_of.of_class(class_id)].tolist())
            assert sorted(kept.digest[kept.of_class(class_id)].tolist()) == digests[:2]
    assert limit(whole, 99).digest("train") == whole.digest("train")
    assert few.digest("val") != whole.digest("val")


@each_of("name", ["val", "test"])
def test_validation_folder_alone_is_not_trained_on(tmp_path, name):
    url = folder(tmp_path, *(f"{name}/{c}/{i}.png" for c in "ab" for i in range(3)))
    assert f"has {name}/CLASS folders but no images in train/CLASS" in refusal(lambda: build_index(url))


def test_single_test_parquet_is_read_by_name_only(tmp_path):
    parquet(tmp_path, "test-00000-of-00001.parquet")
    assert "is named train-*" in refusal(lambda: build_index(str(tmp_path)))
    assert build_index(str(tmp_path / "test-00000-of-00001.parquet")).val_held_out


@each_of("file", ["train/7.png", "val/7.png"])
def test_image_outside_class_folders_is_refused(tmp_path, file):
    url = folder(tmp_path, *TWO_CLASSES, file)
    assert f"{file} lies in no class folder" in refusal(lambda: build_index(url))


def test_hidden_files_and_notes_are_ignored(tmp_path):
    notes = ["train/labels.csv", "val/notes.txt", "README.md", "train/a/.DS_Store", "train/b/Thumbs.db", "test/1.png"]
    index = build_index(folder(tmp_path, *TWO_CLASSES, *notes))
    assert (len(index.train), len(index.val)) == (4, 4)


@each_of("place", ["train/train-0.parquet", "data/train-0.parquet", "train.parquet"])
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


def test_declared_text_labels_keep_their_order(tmp_path):
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
    told = refusal(lambda: build_index(str(tmp_path)))
    assert "has the columns image (struct<bytes: binary, path: string>), label (list<element: int64>); expected" in told


def test_files_of_different_class_names_are_refused(tmp_path):
    parquet(tmp_path, "train-0.parquet")
    parquet(tmp_path, "val-0.parquet", names=("b", "a"))
    assert "val-0.parquet declares other class names" in refusal(lambda: build_index(str(tmp_path)))


def test_null_image_and_null_label_are_counted(tmp_path):
    images = pa.array([{"bytes": png(0), "path": None}, None, {"bytes": png(1), "path": None}], HF)
    pq.write_table(table(images, pa.array([0, 1, None])), tmp_path / "train.parquet")
    message = refusal(lambda: build_index(str(tmp_path)))
    assert "train.parquet row 1 holds no image bytes (and 1 more" in message


@each_of("kind", ["folder", "parquet"])
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


def test_name_of_two_classes_cannot_be_chosen(tmp_path):
    pq.write_table(
        table(structs(*map(png, range(4))), pa.array([0, 1] * 2), ("crane", "crane")), tmp_path / "t.parquet"
    )
    url = str(tmp_path / "t.parquet")
    assert np.bincount(build_index(url).train.label).tolist() == [1, 1]
    assert "occurs twice in" in refusal(lambda: build_index(url, classes=("crane",)))


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
