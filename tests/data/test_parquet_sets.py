"""Parquet sets as people have them: other names of splits and columns, other types, missing parts."""

import json
import re
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
from image_files import HF, folder, parquet, png, refusal, structs, table
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.images import load_native_uint8
from wmdd.data.layouts.parquet_splits import parquet_splits
from wmdd.data.layouts.split_names import same_name
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.data.set_notes import class_notes
from wmdd.storage.store import ArtifactStore


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


LABELS = {
    "string_view": pa.array(["cat", "dog"] * 3, pa.string()).cast(pa.string_view()),
    "large_string": pa.array(["cat", "dog"] * 3, pa.large_string()),
    "dictionary": pa.array(["cat", "dog"] * 3).dictionary_encode(),
    "uint8": pa.array([0, 1] * 3, pa.uint8()),
    "bool": pa.array([False, True] * 3),
}


@each_of("kind", LABELS)
def test_labels_of_every_type_are_read(tmp_path, kind):
    pq.write_table(pa.table({"image": structs(*map(png, range(6))), "label": LABELS[kind]}), tmp_path / "train.parquet")
    index = build_index(str(tmp_path), val_fraction=0.3)
    expected = {"uint8": ("0", "1"), "bool": ("False", "True")}
    assert index.class_names == expected.get(kind, ("cat", "dog"))
    assert {int(row) % 2 for row in index.train.row[index.train.of_class(1)]} == {1}


@each_of("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
@each_of("nested", [True, False])
def test_images_of_every_type_are_read(tmp_path, kind, nested):
    groups = []
    for seed in (0, 2, 4):  # pyarrow cannot cut a table of nested views into row groups itself
        images = pa.array([png(seed), png(seed + 1)], pa.binary()).cast(kind)
        if nested:
            images = pa.StructArray.from_arrays([images, pa.nulls(2, pa.string())], ["bytes", "path"])
        groups.append(pa.table({"image": images, "label": [0, 1]}))
    with pq.ParquetWriter(tmp_path / "train.parquet", groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)
    index = build_index(str(tmp_path), val_fraction=0.3)
    assert (len(index.train), load_native_uint8(index, "val", index.val.of_class(0)).shape[0]) == (4, 1)


@each_of("columns", [("Image", "Label"), ("jpg", "cls"), ("scan", "class"), ("image", "target"), ("img", "fine_label")])
def test_columns_are_known_by_other_names(tmp_path, columns):
    made = table(structs(*map(png, range(4))), pa.array([0, 1] * 2), names=None, columns=columns)
    pq.write_table(made, tmp_path / "train.parquet")
    assert build_index(str(tmp_path), val_fraction=0.5).class_names == ("0", "1")


def test_only_declared_class_column_is_the_label(tmp_path):
    features = {
        "breed": {"names": ["pug", "tabby"], "_type": "ClassLabel"},
        "age": {"dtype": "int64", "_type": "Value"},
    }
    made = pa.table({"image": structs(*map(png, range(4))), "age": [1, 2, 3, 4], "breed": [0, 1] * 2})
    made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(made, tmp_path / "train.parquet")
    assert build_index(str(tmp_path), val_fraction=0.5).class_names == ("pug", "tabby")


def test_columns_that_do_not_fit_are_shown(tmp_path):
    pq.write_table(pa.table({"image": ["a.png"], "label": [0.5]}), tmp_path / "train.parquet")
    told = refusal(lambda: build_index(str(tmp_path)))
    assert "has the columns image (string), label (double); expected image/img with bytes" in told


def test_split_without_labels_is_named(tmp_path):
    parquet(tmp_path, "train-0.parquet")
    pq.write_table(table(structs(png(0), png(1)), pa.array([-1, -1])), tmp_path / "test-0.parquet")
    told = refusal(lambda: build_index(str(tmp_path)))
    assert "row 0 has label -1, which is none of 2 classes" in told
    assert "move the files of a split without labels away" in told


def labelled(root, **splits):
    for seed, (split, labels) in enumerate(splits.items()):
        images = structs(*(png(100 * seed + i) for i in range(2 * len(labels))))
        pq.write_table(pa.table({"image": images, "label": pa.array(labels * 2)}), root / f"{split}.parquet")
    return str(root)


DECOMPOSED = unicodedata.normalize("NFD", "café")
UNFIT = {
    "forms": ({"train": ["café", DECOMPOSED, "dog"]}, r"café is there twice, in two Unicode forms \('cafe\\u0301', "),
    "blanks": (
        {"train": ["cat", "cat ", "dog"]},
        r"is there twice, with and without blanks .*; write one label in all",
    ),
    "empty": (
        {"train": ["cat", "dog", ""]},
        r"train\.parquet row 2 has no label \(''\) \(and 1 more like it\); remove",
    ),
    "blank": ({"train": ["cat", "dog"], "test": ["cat", " "]}, r"test\.parquet row 1 has no label \(' '\)"),
    "null": ({"train": ["cat", "dog", None]}, r"train\.parquet row 2 has no label \(None\)"),
    "types": (
        {"train": [0, 1], "test": ["0", "1"]},
        r"test\.parquet has labels of type string, and train\.parquet of ",
    ),
    "unlabelled": (
        {"train": [0, -1, 2, 3]},
        r"label -1 marks .*: data\.classes 0,2,3.* leaves these images out, -1,0,2,",
    ),
    "other": ({"train": ["cat", "dog"], "test": ["cat", "bird"]}, r"label 'bird', which is none of 2 classes"),
    "two near": ({"train": ["cat", "Cat"], "test": ["CAT"]}, r"label 'CAT', which is none of 2 classes"),
}


@each_of("case", UNFIT)
def test_labels_that_are_surely_no_classes_are_refused(tmp_path, case):
    splits, told = UNFIT[case]
    assert re.search(told, refusal(lambda: build_index(labelled(tmp_path, **splits))))


def test_one_who_names_the_classes_is_asked_nothing(tmp_path):
    url = labelled(tmp_path, train=[-1, 0, 1])
    assert build_index(url, classes=("0", "1")).class_names == ("0", "1")
    assert len(build_index(url, classes=("-1", "0", "1")).train) == 3
    assert build_index(labelled(tmp_path, train=[-1, 1])).class_names == ("-1", "1"), "as signs are"
    url = labelled(tmp_path, train=["café", DECOMPOSED, "dog"])
    assert build_index(url, classes=("dog", "café")).class_names == ("dog", "café")


def test_declared_names_are_looked_at_too(tmp_path):
    assert "is there twice" in refusal(lambda: build_index(parquet(tmp_path, names=("cat", "cat "))))


@each_of(
    ("train", "test", "note"),
    [
        (["cat", "dog"], ["Dog", "Cat"], "2 validation classes are spelled in another case than in training, and"),
        (["cat", "café"], ["cat ", DECOMPOSED], "2 validation classes are spelled otherwise than in training, and"),
    ],
)
def test_labels_in_another_spelling_are_matched(tmp_path, train, test, note):
    config = override(recipe("digits"), {"data.path": labelled(tmp_path, train=train, test=test)})
    for _ in range(2):  # read from the store, the index keeps the note
        index, _ = load_index(config, ArtifactStore(str(tmp_path / "store")), lambda done, total: None)
        assert index.class_names == tuple(sorted(train))
        assert sorted(index.val.label.tolist()) == [0, 0, 1, 1]
        assert next(line for line in index.notes if "spelled" in line).startswith(note)
    names = [index.class_names[label] for label in index.val.label]
    assert [same_name(name) for name in names] == [same_name(test[row % 2]) for row in index.val.row]


@each_of(
    ("labels", "note"),
    [
        (["Cat", "cat"], "classes Cat and cat are one name in another case, and are read as two classes; merge them"),
        (["cat", "NaN"], "class NaN has the name of a missing label; to leave it out, name the others"),
    ],
)
def test_classes_that_may_be_none_are_noted(tmp_path, labels, note):
    index = build_index(labelled(tmp_path, train=labels))
    (line,) = (*index.notes, *class_notes(index))
    assert line.startswith(note)


def test_declared_class_is_no_missing_label(tmp_path):
    pq.write_table(
        table(structs(*map(png, range(4))), pa.array([0, 0, 1, 1]), ("none", "cat")), tmp_path / "train.parquet"
    )
    index = build_index(str(tmp_path))
    assert (index.class_names, index.notes, class_notes(index)) == (("none", "cat"), (), ())


def test_classes_of_folders_in_two_cases_are_noted(tmp_path):
    images = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in ("Cat", "cat", "nan") for i in "01"]
    (line,) = class_notes(build_index(folder(tmp_path, *images)))
    assert line.startswith("classes Cat and cat are one name in another case")


def test_images_outside_of_the_file_are_named(tmp_path):
    images = pa.array([{"bytes": png(0), "path": "a.png"}, {"bytes": None, "path": "b.png"}, None], HF)
    pq.write_table(table(images, pa.array([0, 1, 1])), tmp_path / "train.parquet")
    told = refusal(lambda: build_index(str(tmp_path)))
    assert "row 1 holds the name of a file (b.png), and not its bytes: the images are outside of the set" in told
    assert told.endswith("write it with their bytes, or give them in class folders")
    pq.write_table(table(pa.array([png(0), None]), pa.array([0, 1])), tmp_path / "train.parquet")
    assert "row 1 holds no image bytes; remove" in refusal(lambda: build_index(str(tmp_path)))
