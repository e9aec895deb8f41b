"""Splits and classes of a set, known by the names of its folders, or refused by name."""

import numpy as np
from image_files import CLASSES, TWO_CLASSES, counts, folder, images, refusal
from tables import each_of

from wmdd.data.images import load_native_uint8
from wmdd.data.layouts.sources import list_files
from wmdd.data.layouts.split_names import split_role
from wmdd.data.scan import build_index


@each_of(
    ("train", "val"),
    [
        ("Training", "Testing"),
        ("Train", "Val"),
        ("TRAIN", "TEST"),
        ("training", "validation"),
        ("train", "dev"),
        ("train", "eval"),
        ("train_images", "test_images"),
        ("TrainSet", "TestSet"),
        ("train2017", "val2017"),
        ("images/train", "images/val"),
        ("dataset/train", "dataset/valid"),
        ("archive/data/Training", "archive/data/Testing"),
        ("train/train", "test/test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
    ],
)
def test_splits_are_known_by_other_names_and_folders(tmp_path, train, val):
    index = build_index(folder(tmp_path, *images(train, val)))
    assert counts(index) == (CLASSES, 4, 4, False)
    assert all(name.startswith(f"{train}/") for name in index.train.files)
    assert all(name.startswith(f"{val}/") for name in index.val.files)


def test_split_that_is_named_otherwise_is_noted(tmp_path):
    listing = list_files(folder(tmp_path, *images("Training", "Testing"), *images("Extra", classes=("x",))))
    assert listing.notes[0] == "Training is read as the training split, Testing as the validation split"
    assert listing.notes[1] == "left out: Extra (the splits are Training and Testing)"
    assert not list_files(folder(tmp_path / "usual", *images("train", "val"))).notes


@each_of(("name", "split"), [("weight training", None), ("invalid", None), ("device", None), ("train_test", None)])
def test_names_of_classes_are_no_splits(name, split):
    role = split_role(name)
    assert role is None or role.rank == 2


def test_names_that_every_tool_uses_come_first(tmp_path):
    index = build_index(folder(tmp_path, *images("train", "train_extra", "test", "Val", classes=CLASSES)))
    assert index.train.files[0].startswith("train/")
    assert index.val.files[0].startswith("test/")


def test_two_training_folders_are_refused(tmp_path):
    told = refusal(lambda: build_index(folder(tmp_path, *images("Train_1", "Train_2", "val"))))
    assert "Train_1 and Train_2 both look like the training split; keep one" in told


@each_of(
    ("paths", "told"),
    [
        (images("train", "Train", "val"), "Train both look like the training split; keep one, or merge them"),
        (images("train", "val", "Val"), "Val both look like the validation split; keep one, or merge them"),
        (
            images("train", "train ", "test"),
            "train and 'train ' both look like the training split; keep one, or merge them",
        ),
    ],
)
def test_two_folders_for_one_split_are_refused(tmp_path, paths, told):
    assert told in refusal(lambda: build_index(folder(tmp_path, *paths)))


def test_unused_folders_of_the_same_classes_are_noted(tmp_path):
    url = folder(tmp_path, *images("train", "query", "gallery", "train_2"), "extra/x/0.png")
    assert list_files(url).notes == (
        "left out: extra (the only split with these classes is train)",
        "left out: gallery, query (train is the training split; to validate on another folder, call it val)",
        "left out: train_2 (train is the training split; to train on more, move it there)",
    )


def test_test_folder_without_the_classes_is_unlabelled(tmp_path):
    index = build_index(folder(tmp_path, *images("train"), "test/test/0.png", "test/test/1.png"))
    assert counts(index) == (CLASSES, 2, 2, True)


def test_wrapped_classes_are_found(tmp_path):
    assert build_index(folder(tmp_path, *images("archive/animals"))).class_names == CLASSES


def test_splits_inside_the_classes_are_read_as_splits(tmp_path):
    paths = [f"{name}/{split}/{i}.png" for name in CLASSES for split in ("train", "val") for i in range(3)]
    index = build_index(folder(tmp_path, *paths))
    assert counts(index) == (CLASSES, 6, 6, False)
    assert set(index.train.files) == {path for path in paths if "/train/" in path}


@each_of("paths", [["train/0.png", "test/0.png"], ["train/images/0.png", "valid/images/0.png"], ["0.png"]])
def test_images_without_class_folders_are_refused(tmp_path, paths):
    assert "0.png" in refusal(lambda: build_index(folder(tmp_path, *paths)))
    assert "lies in no class folder" in refusal(lambda: build_index(str(tmp_path)))


@each_of(
    ("names", "told"),
    [
        (("cat.0", "cat.1", "dog.0"), "train/cat.0.png (and 3 more) lies in no class folder; move it into one, such as "
         "train/cat, or away"),
        (("golden retriever", "0"), "move it into one or away"),
        (("IMG_0001", "IMG_0002"), "move it into one or away"),
        (("DSC0001", "cat1"), "move it into one or away"),
        (("n01440764_1", "cat1"), "move it into one, such as train/cat, or away"),
    ],
)  # fmt: skip
def test_image_named_by_its_class_is_to_be_moved_there(tmp_path, names, told):
    url = folder(tmp_path, *(f"train/{name}.png" for name in names), "test1/0.png")
    assert told in refusal(lambda: build_index(url))


def test_folder_of_all_images_is_no_class(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label")
    told = refusal(lambda: build_index(folder(tmp_path, *(f"images/{i}.png" for i in range(4)))))
    assert "images/0.png (and 3 more) lies in no class folder" in told
    told = refusal(lambda: build_index(folder(tmp_path, "x.png", "y.png", "cat/0.png", "dog/0.png")))
    assert "x.png (and 1 more) lies in no class folder" in told


def test_link_to_a_folder_above_adds_nothing(tmp_path):
    url = folder(tmp_path, *images("train", "val"))
    for place, target in (("train/cat/up", "train/cat"), ("train/cat/top", ""), ("val/dog/self", "val/dog/self")):
        (tmp_path / place).symlink_to(tmp_path / target)
    (tmp_path / "val/dog/self").unlink()
    assert counts(build_index(url)) == (CLASSES, 4, 4, False)


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


def test_folder_of_sets_is_no_set(tmp_path):
    paths = [f"{name}/{split}/{c}/0.png" for name in ("cats", "dogs") for split in ("train", "val") for c in "ab"]
    url = folder(tmp_path / "sets", *paths)
    told = refusal(lambda: build_index(url))
    assert f"cats is a set, and no class; give {url}/cats" in told
    assert build_index(f"{url}/cats").class_names == ("a", "b")


@each_of("name", ["val", "test"])
def test_validation_folder_alone_is_not_trained_on(tmp_path, name):
    url = folder(tmp_path, *(f"{name}/{c}/{i}.png" for c in "ab" for i in range(3)))
    assert f"has {name}/CLASS folders but no images in train/CLASS" in refusal(lambda: build_index(url))


@each_of("file", ["train/7.png", "val/7.png"])
def test_image_outside_class_folders_is_refused(tmp_path, file):
    url = folder(tmp_path, *TWO_CLASSES, file)
    assert f"{file} lies in no class folder" in refusal(lambda: build_index(url))
