"""Class names: odd spellings, empty and unknown classes, and those that a run leaves out."""

import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import CLASSES, TWO_CLASSES, counts, folder, images, parquet, png, refusal, structs, table
from tables import each_of

from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.errors import DataError


def test_splits_without_a_common_class_are_refused(tmp_path):
    url = folder(tmp_path, *images("train"), *images("val", classes=("frog", "newt")))
    told = (
        "validation class frog (and 1 more) has no training folder, and no other has one, as in few-shot sets; put all"
    )
    assert told in refusal(lambda: build_index(url))


def test_empty_class_folder_may_be_removed(tmp_path):
    url = folder(tmp_path, *images("train", "val"))
    (tmp_path / "train/frog").mkdir()
    told = "class frog has no train images; add images, remove its folder, or leave it out with data.classes"
    assert told in refusal(lambda: build_index(url))


def test_unicode_forms_of_a_class_are_one_class(tmp_path):
    decomposed = unicodedata.normalize("NFD", "café")
    url = folder(tmp_path, *images("train", classes=("bar", "café")), *images("val", classes=("bar", decomposed)))
    index = build_index(url)
    assert counts(index) == (("bar", "café"), 4, 4, False)
    assert list_files(url).notes[0].endswith("Unicode form than in training, and matched ('cafe\\u0301' to 'caf\\xe9')")
    assert build_index(url, classes=(decomposed, "bar")).class_names == ("café", "bar")


def test_class_in_two_unicode_forms_is_refused(tmp_path):
    names = ("bar", "café", unicodedata.normalize("NFD", "café"))
    told = refusal(lambda: build_index(folder(tmp_path, *images("train", classes=names))))
    assert "is there twice, in two Unicode forms ('cafe\\u0301', 'caf\\xe9'); merge the folders" in told


def test_case_of_a_class_is_matched_where_it_is_unique(tmp_path):
    url = folder(tmp_path / "1", *images("train", classes=("Cat", "Dog")), *images("val"))
    assert counts(build_index(url)) == (("Cat", "Dog"), 4, 4, False)
    assert (
        "2 validation classes are spelled in another case than in training, and matched (cat to Cat)"
        in list_files(url).notes
    )
    url = folder(tmp_path / "2", *images("train", classes=("Cat", "CAT")), *images("val", classes=("cat",)))
    assert "validation class cat has no training folder" in refusal(lambda: build_index(url))


@each_of(
    ("name", "told"),
    [
        ("cat ", "with other blanks at an end than in training, and matched ('cat ' to 'cat')"),
        ("\u00a0cat", "with other blanks at an end than in training, and matched ('\\xa0cat' to 'cat')"),
        ("Cat ", "otherwise than in training, and matched ('Cat ' to 'cat')"),
    ],
)
def test_what_a_matched_class_differs_in_is_seen(tmp_path, name, told):
    url = folder(tmp_path, *images("train"), *images("val", classes=(name, "dog")))
    assert f"1 validation class is spelled {told}" in list_files(url).notes
    assert build_index(url).class_names == CLASSES


def test_class_with_and_without_a_blank_is_refused(tmp_path):
    told = refusal(lambda: build_index(folder(tmp_path, *images("train", classes=("cat", "cat ", "dog")))))
    assert "class cat  is there twice, with and without blanks at an end ('cat', 'cat '); merge the folders" in told


def test_misspelled_validation_class_is_shown(tmp_path):
    url = folder(tmp_path, *images("train", "val"), "val/cats/0.png")
    assert "validation class cats has no training folder; is it cat? rename" in refusal(lambda: build_index(url))


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


def test_empty_class_folder_is_still_named(tmp_path):
    url = folder(tmp_path / "set", *(f"{c}/{i}.png" for c in "ab" for i in range(3)))
    (tmp_path / "set/c").mkdir()
    with pytest.raises(DataError, match="class c has no train images"):
        build_index(url)


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
