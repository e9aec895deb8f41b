"""Labels of Parquet sets: every type is read, odd ones are refused or noted."""

import re
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
from image_files import parquet, png, refusal, structs, table
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.layouts.split_names import same_name
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.data.set_notes import class_notes
from wmdd.storage.store import ArtifactStore

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


def test_declared_text_labels_keep_their_order(tmp_path):
    made = table(structs(*map(png, range(4))), pa.array(["x", "y"] * 2), names=("y", "x"))
    pq.write_table(made, tmp_path / "one.parquet")
    index = build_index(str(tmp_path / "one.parquet"), val_fraction=0.5)
    assert index.class_names == ("y", "x")
    assert {int(row) % 2 for row in index.train.row[index.train.of_class(0)]} == {1}


def test_integer_labels_without_names_sort_as_numbers(tmp_path):
    pq.write_table(table(structs(*map(png, range(4))), pa.array([10, 9] * 2), names=None), tmp_path / "one.parquet")
    assert build_index(str(tmp_path / "one.parquet")).class_names == ("9", "10")


def test_files_of_different_class_names_are_refused(tmp_path):
    parquet(tmp_path, "train-0.parquet")
    parquet(tmp_path, "val-0.parquet", names=("b", "a"))
    assert "val-0.parquet declares other class names" in refusal(lambda: build_index(str(tmp_path)))
