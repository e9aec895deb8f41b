"""Which files below a set's root are images: not those of the system, notes, or unfinished downloads."""

import os

import numpy as np
import pytest
from image_files import CLASSES, TWO_CLASSES, counts, folder, images, parquet, png, refusal, stored_again
from tables import each_of

from wmdd.data.images import load_native_uint8
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.errors import DataError


@each_of("suffix", ["crdownload", "part", "incomplete", "aria2", "!ut"])
@each_of("file", ["train-1.parquet", "train/cat/9.png"])
def test_download_that_has_not_finished_is_refused(tmp_path, file, suffix):
    folder(tmp_path, *images("train", "val")) if file.endswith("png") else parquet(tmp_path, "train-0.parquet")
    (tmp_path / f"{file}.{suffix}").write_bytes(b"\x89PNG\r\n")
    assert f"{file}.{suffix} is a download that has not finished" in refusal(lambda: list_files(str(tmp_path)))


JUNK = ("@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "@eaDir/0.jpg", "._0.png", ".ipynb_checkpoints/0.png", "Thumbs.db")


JUNK += ("0.png:Zone.Identifier", "desktop.ini", "$RECYCLE.BIN/0.png")


@each_of("junk", [f"train/cat/{name}" for name in JUNK] + ["__MACOSX/train/cat/0.png", "train/_DS_Store"])
def test_files_of_the_system_are_no_images(tmp_path, junk):
    assert counts(build_index(folder(tmp_path, *images("train", "val"), junk))) == (CLASSES, 4, 4, False)


@each_of("name", ["@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle"])
def test_folders_of_the_system_are_no_classes(tmp_path, name):
    url = folder(tmp_path, *images("train", "val"))
    (tmp_path / "train" / name).mkdir()
    assert build_index(url).class_names == CLASSES
    (tmp_path / "train" / name / "0.png").write_bytes(png(0))
    assert build_index(url).class_names == CLASSES


@each_of(
    "note", ["a.txt", "a.csv", "a.json", "a.jsonl", "a.xml", "a.yaml", "a.html", "a.md", "LICENSE", "README", "a.PDF"]
)
@each_of("place", ["train", "train/cat"])
def test_notes_beside_images_and_classes_are_left_out(tmp_path, note, place):
    url = folder(tmp_path, *images("train", "val"))
    before = list_files(url).signature
    (tmp_path / place / note).write_text("x")
    assert counts(build_index(url)) == (CLASSES, 4, 4, False)
    assert (list_files(url).signature, list_files(url).notes) == (before, ())


@each_of("file", ["a.npy", "a.mat", "metadata.parquet", "a.mp4"])
def test_other_data_among_images_is_noted(tmp_path, file):
    url = folder(tmp_path, *images("train", "val"))
    (tmp_path / "train/cat" / file).write_bytes(b"x")
    assert counts(build_index(url)) == (CLASSES, 4, 4, False)
    assert list_files(url).notes == (f"left out: train/cat/{file} (the set is images in class folders)",)


def test_folder_of_notes_is_no_class(tmp_path):
    url = folder(tmp_path, *images(""))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/0.xml").write_text("x")
    assert build_index(url).class_names == CLASSES
    assert list_files(url).notes == ("left out: annotations (no images in there)",)
    (tmp_path / "frog").mkdir()
    (tmp_path / "frog/0.npy").write_bytes(b"x")
    assert "frog holds no images, but frog/0.npy" in refusal(lambda: build_index(url))


def test_image_files_whose_names_are_no_text_are_read(tmp_path):
    url = folder(tmp_path / "b\udce9", *(f"{split}/{name}/\udce9.png" for split in ("train", "val") for name in "ab"))
    index = build_index(url)
    again = stored_again(index)
    assert again.train.files == ("train/a/\udce9.png", "train/b/\udce9.png")
    assert load_native_uint8(again, "train", np.arange(2)).shape == (2, 3, 6, 8)


def test_signature_follows_a_link_to_its_file(tmp_path):
    url = folder(tmp_path / "set", *TWO_CLASSES)
    folder(tmp_path, "real.png")
    (tmp_path / "set/train/a/9.png").symlink_to(tmp_path / "real.png")
    before = list_files(url).signature
    assert list_files(url).signature == before
    os.utime(tmp_path / "real.png", (1, 1))
    assert list_files(url).signature != before


def test_hidden_files_and_notes_are_ignored(tmp_path):
    notes = ["train/labels.csv", "val/notes.txt", "README.md", "train/a/.DS_Store", "train/b/Thumbs.db", "test/1.png"]
    index = build_index(folder(tmp_path, *TWO_CLASSES, *notes))
    assert (len(index.train), len(index.val)) == (4, 4)


SPLITS = [f"{split}/{name}/{number}.png" for split in ("train", "val") for name in "ab" for number in range(3)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_pipe_in_a_class_folder_is_refused(tmp_path):
    url = folder(tmp_path, *SPLITS)
    os.mkfifo(tmp_path / "train/a/x.png")
    with pytest.raises(DataError, match=r"train/a/x\.png is no regular file"):
        list_files(url)
