"""Parquet files are of a split by their names; missing parts are named."""

import pyarrow as pa
import pyarrow.parquet as pq
from image_files import folder, images, parquet, refusal
from tables import each_of

from wmdd.data.layouts.parquet_splits import parquet_splits
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index


@each_of(
    ("train", "val"),
    [
        ("Train-0.parquet", "Test-0.parquet"),
        ("TRAIN.PARQUET", "VAL.PARQUET"),
        ("training.parquet", "validation.parquet"),
        ("train-0.parquet", "dev-0.parquet"),
        ("cifar10_train.parquet", "cifar10_test.parquet"),
        (
            "data/training-00000-of-00001-0a1b2c3d4e5f6071.parquet",
            "data/testing-00000-of-00001-0a1b2c3d4e5f6072.parquet",
        ),
        ("Train/0.parquet", "Valid/0.parquet"),
    ],
)
def test_splits_of_files_are_known_by_other_names(tmp_path, train, val):
    for seed, (file, count) in enumerate(((train, 6), (val, 4))):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        parquet(tmp_path, file, count=count, first_seed=10 * seed)
    index = build_index(str(tmp_path))
    assert (index.train.files, index.val.files) == ((train,), (val,))
    assert (len(index.train), len(index.val)) == (6, 4)


def test_files_of_two_sets_side_by_side_are_refused(tmp_path):
    for file in ("train-0.parquet", "eval.parquet", "test-0.parquet"):
        parquet(tmp_path, file)
    assert build_index(str(tmp_path)).val.files == ("test-0.parquet",)
    for config in ("plain", "extended"):
        (tmp_path / "two" / config).mkdir(parents=True)
        parquet(tmp_path, f"two/{config}/Train.parquet")
    assert "as of several sets (extended, plain)" in refusal(lambda: build_index(str(tmp_path / "two")))


def test_table_beside_the_set_is_no_split_of_it(tmp_path):
    parquet(tmp_path, "train-0.parquet")
    pq.write_table(pa.table({"score": [0.5]}), tmp_path / "eval_scores.parquet")
    index = build_index(str(tmp_path))
    assert (len(index.train) + len(index.val), index.val_held_out) == (6, True)


@each_of(
    ("files", "told"),
    [
        (["train-00000-of-00004", "train-00002-of-00004"], "train-00001-of-00004.parquet and one more are missing"),
        (["train-00000-of-00002"], "train-00001-of-00002.parquet is missing"),
        (["train-00001-of-00009-0a1b2c3d"], "train-00000-of-00009.parquet and 7 more are missing"),
        (["train-0.parquet", "test-00001-of-00002"], "test-00000-of-00002.parquet is missing"),
        (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"], "-of-00001 and -of-00002; keep one"),
        (["train-00000-of-00001-0a1b", "train-00000-of-00001-2c3d"], "are the same part; keep one"),
    ],
)
def test_missing_parts_are_named(tmp_path, files, told):
    for file in files:
        parquet(tmp_path, file if file.endswith(".parquet") else f"{file}.parquet")
    assert told in refusal(lambda: build_index(str(tmp_path)))


@each_of(
    ("files", "told"),
    [
        ("default/train/0000 default/train/0002", "default/train/0001.parquet is missing"),
        ("train/0001 train/0004 train/0005", "train/0002.parquet and one more are missing"),
        ("train-000 train-001 train-007", "train-002.parquet and 4 more are missing"),
        ("cifar10_train_0 cifar10_train_2", "cifar10_train_1.parquet is missing"),
        ("train/shard_0000 train/shard_0003", "train/shard_0001.parquet and one more are missing"),
        (" ".join(f"train/part.{i}" for i in range(12) if i != 7), "train/part.7.parquet is missing"),
        ("train/0000 train/0001 test/0000 test/0002", "test/0001.parquet is missing"),
    ],
)
def test_missing_number_between_parts_is_named(files, told):
    paths = [f"{file}.parquet" for file in files.split()]
    assert told in refusal(lambda: parquet_splits(paths, "set"))


@each_of(
    "files",
    [
        "train/0000 train/0001 train/0002",
        "train/7",
        "train/0004 train/0006",
        "train/0 train/7",
        "train/part-00000-4f1c-c000.snappy train/part-00002-4f1c-c000.snappy",
        "train/subject_01 train/subject_03",
        "train/2020-01 train/2020-03",
        "train/a/0000 train/b/0002",
        " ".join(f"train/{i}" for i in range(12)),
    ],
)
def test_chosen_numbers_are_no_missing_parts(files):
    paths = [f"{file}.parquet" for file in files.split()]
    assert parquet_splits(paths, "set")["train"] == tuple(paths)


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


def test_single_test_parquet_is_read_by_name_only(tmp_path):
    parquet(tmp_path, "test-00000-of-00001.parquet")
    assert "is named train-*" in refusal(lambda: build_index(str(tmp_path)))
    assert build_index(str(tmp_path / "test-00000-of-00001.parquet")).val_held_out


@each_of("place", ["train/train-0.parquet", "data/train-0.parquet", "train.parquet"])
def test_parquet_layouts(tmp_path, place):
    for file in (place, place.replace("train", "validation")):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        parquet(tmp_path, file)
    index = build_index(str(tmp_path))
    assert (index.train.files, len(index.train), len(index.val)) == ((place,), 6, 6)


def test_parquet_among_training_folders_is_ignored(tmp_path):
    url = folder(tmp_path, *images("train", "val"))
    (tmp_path / "out/images").mkdir(parents=True)
    parquet(tmp_path, "out/images/train-00000-of-00001.parquet")
    (tmp_path / "train/metadata.parquet").write_bytes(b"x")
    assert build_index(url).kind == "folder"


def test_parquet_set_with_pictures_stays_parquet(tmp_path):
    url = folder(tmp_path, "assets/a.png", "figures/b.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "dataset_infos.json").write_text("{}")
    parquet(tmp_path, "data/train-00000-of-00001.parquet")
    index = build_index(url)
    assert (index.kind, len(index.train) + len(index.val)) == ("parquet", 6)
    assert list_files(url).notes == ("left out: assets/a.png and 1 more (the set is its Parquet files)",)
