"""Folders that may be no classes: refused unless the user names the classes, or noted."""

import shutil

from image_files import CLASSES, folder, images, refusal
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.layouts.sources import list_files
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.storage.store import ArtifactStore


def twice(*tops, inner=("x", "y")):
    return [f"{top}/{name}/{i}.png" for top in tops for name in inner for i in range(2)]


@each_of(
    ("paths", "told"),
    [
        (twice("A", "B"), "A, B hold the same folders (x, y) and no images themselves: if they are splits"),
        ([*twice("A", "B"), "A/z/0.png"], "A, B hold the same folders (x, y) and no images themselves: if they"),
        (images("", "flowers"), "flowers holds folders named as the other classes"),
        ([*images(""), "test/0.png", "test/1.png"], "test holds images and no class folders, and looks like a split"),
        ([*images(""), "Val/0.png", "Val/1.png"], "Val holds images and no class folders, and looks like a split"),
    ],
)
def test_doubtful_classes_are_refused_unless_named(tmp_path, paths, told):
    url = folder(tmp_path, *paths)
    message = refusal(lambda: build_index(url))
    assert told in message
    assert "data.classes" in message
    store = ArtifactStore(str(tmp_path.with_name("store")))
    config = override(recipe("digits"), {"data.path": url})
    assert told in refusal(lambda: load_index(config, store, lambda done, total: None))
    names = tuple(sorted({path.partition("/")[0] for path in paths}))
    classes = tuple(name.partition("/")[0] for name in names)
    assert build_index(url, classes=classes).class_names == classes


@each_of("names", [("car", "plane", "train"), ("invalid", "valid"), ("control", "test")])
def test_classes_called_like_a_split_stay_classes(tmp_path, names):
    url = folder(tmp_path, *images("", classes=names))
    assert build_index(url).class_names == names
    (note,) = list_files(url).notes
    assert "holds images and no class folders, and is read as a class" in note


def test_many_classes_with_equal_folders_stay_classes(tmp_path):
    names = tuple(f"p{i}" for i in range(9))
    url = folder(tmp_path, *twice(*names, inner=("smile", "neutral")))
    assert build_index(url).class_names == names
    assert "9 classes hold the same folders (neutral, smile)" in list_files(url).notes[0]


def test_folders_below_the_classes_are_noted(tmp_path):
    url = folder(tmp_path, *images("train/animal", "val/animal"), *images("train/car", "val/car", classes=("a", "b")))
    assert build_index(url).class_names == ("animal", "car")
    assert "the folders in them (cat, dog, a and 1 more) are no classes" in list_files(url).notes[0]


def test_equal_folders_below_the_classes_are_noted(tmp_path):
    paths = [f"{split}/{name}/0.png" for split in ("train", "val") for name in ("red/apple", "red/plum", "green/apple")]
    url = folder(tmp_path / "1", *paths, "train/green/pear/0.png")
    told = "the classes are green, red; the folders in them (apple, pear, plum) are no classes"
    assert list_files(url).notes == (told,)
    names = [f"{name}/{inner}" for name in CLASSES for inner in ("images", "masks")]
    assert not any(
        "are no classes" in note for note in list_files(folder(tmp_path / "2", *images("train", classes=names))).notes
    )


@each_of(
    "names",
    [("images", "masks"), ("JPEGImages", "SegmentationClass"), ("img", "gt"), ("images", "annotations/trimaps")],
    ids="-".join,
)
def test_images_and_their_masks_are_no_classes(tmp_path, names):
    url = folder(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(4)))
    assert "are named as images and their masks, and not as classes" in refusal(lambda: build_index(url))
    classes = tuple(name.partition("/")[0] for name in names)
    assert build_index(url, classes=classes).class_names == classes


@each_of(
    ("names", "told"),
    [
        (("images", "masks"), "images, masks are named as images and their masks, and not as classes"),
        (("annotations", "imgs"), "are named as images and their masks"),
        (("HR", "LR_x4"), "HR, LR_x4 are named as two sides of the same images, and not as classes"),
        (("input", "target"), "are named as two sides of the same images"),
    ],
)
def test_sides_of_the_same_images_are_no_classes(tmp_path, names, told):
    url = folder(tmp_path, *images("train", "val", classes=names))
    message = refusal(lambda: build_index(url))
    assert told in message
    assert f"name them: data.classes {','.join(names)}" in message
    assert build_index(url, classes=names).class_names == names
    shutil.rmtree(tmp_path / "val")
    assert told in refusal(lambda: build_index(str(tmp_path / "train")))
    classes = [f"{name}/{inner}" for name in names for inner in CLASSES]
    url = folder(tmp_path / "sets", *images("", classes=classes))
    assert "give one of them as data.path" in refusal(lambda: build_index(url))


@each_of("names", [("high", "low"), ("hr", "sales"), ("mask", "no_mask"), ("label", "cat"), ("images", "photos")])
def test_classes_that_sound_like_masks_are_read(tmp_path, names):
    url = folder(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(4)))
    assert build_index(url).class_names == tuple(sorted(names))
