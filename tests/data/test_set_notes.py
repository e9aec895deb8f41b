"""Notes about an indexed set: classes, images that occur twice, grey levels, frames and alpha."""

import re

import numpy as np
from builders import image_set
from image_files import deep_png, fits, folder, images, saved, stored_again
from PIL import Image
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.data.set_notes import class_notes, describe_classes, double_notes, pixel_notes
from wmdd.storage.store import ArtifactStore


def test_classes_that_differ_in_case_are_noted(tmp_path):
    url = folder(tmp_path / "1", *images("train", "val", classes=("CAT", "cat", "dog")))
    (note,) = class_notes(build_index(url))
    assert note.startswith("classes CAT and cat are one name in another case, and are read as two classes")
    url = folder(tmp_path / "2", *images("train", "val", classes=("A", "a", "b")))
    assert not class_notes(build_index(url)), "letters are classes"


@each_of("root", ["", "train"])
@each_of("name", ["unlabeled", "Unlabelled_images", "unsorted"])
def test_class_of_images_without_a_class_is_noted(tmp_path, root, name):
    url = folder(tmp_path, *images(root, classes=("cat", "dog", name)))
    told = f"{name} is read as a class; move it away if its images are of no class"
    assert class_notes(build_index(url)) == (told,)


def test_images_in_both_splits_are_counted(tmp_path):
    paths = images("train", "val", count=4)
    url = folder(tmp_path, *paths)
    assert double_notes(build_index(url)) == ()
    for path in paths[8:11]:
        (tmp_path / path).write_bytes((tmp_path / path.replace("val", "train")).read_bytes())
    (note,) = double_notes(build_index(url))
    assert note.startswith("3 of 8 validation images are training images too")
    (tmp_path / "train/cat/0.png").write_bytes((tmp_path / "train/dog/0.png").read_bytes())
    assert "1 of 8 training images is a copy of another one, 1 of them in another class" in double_notes(
        build_index(url)
    )


def test_notes_reach_a_run_with_a_stored_index(tmp_path):
    url = folder(tmp_path / "set", *images("Training", "Testing"))
    store = ArtifactStore(str(tmp_path / "store"))
    config = override(recipe("digits"), {"data.path": url})
    first, again = (load_index(config, store, lambda done, total: None)[0] for _ in range(2))
    assert first.notes == again.notes == ("Training is read as the training split, Testing as the validation split",)


def test_classes_are_described_in_one_short_line(tmp_path):
    few = build_index(folder(tmp_path / "few", *images("train", "val", count=3)))
    assert describe_classes(few) == "classes (training, validation images): cat (3, 3), dog (3, 3)"
    many = build_index(folder(tmp_path / "many", *images("train", "val", classes=[f"c{i:02d}" for i in range(30)])))
    shown = describe_classes(many)
    assert shown.endswith("c03 (2, 2), c04 (2, 2), ..., c29 (2, 2)")
    assert len(shown) < 150


def test_classes_of_folders_in_two_cases_are_noted(tmp_path):
    images = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in ("Cat", "cat", "nan") for i in "01"]
    (line,) = class_notes(build_index(folder(tmp_path, *images)))
    assert line.startswith("classes Cat and cat are one name in another case")


RAMP = np.linspace(0, 1, 80)[None].repeat(70, 0)  # too large to be decoded for the index without need


COLOURS = np.stack([RAMP, RAMP / 2, 0 * RAMP], -1)


def noise(top, dtype, offset=0):
    return saved(Image.fromarray((RAMP * top + offset).astype(dtype)), "TIFF")


FAINT = {
    "12 of 16": (
        noise(4095, np.uint16),
        "8 of 8 images of 16 bits hold values from 0 to 4095 only, 16 of 255 grey levels once decoded; "
        "--data.bits 12 makes 4095 white",
    ),
    "8 of 16": (
        noise(255, np.uint16),
        "0 to 255 only, 1 of 255 grey levels once decoded; --data.bits 8 makes 255 white",
    ),
    "12 of 32": (noise(4000, np.int32), "0 to 4000 only, 16 of 255 .*; --data.bits 12 makes 4095 white"),
    "FITS": (fits((RAMP * 1000).astype(np.int16)), "0 to 1000 only, 4 of 255 .*; --data.bits 10 makes 1023 white"),
    "offset": (
        noise(3000, np.uint16, 32000),
        "from 32000 to 35000 only, 12 of 255 .*; stretch the values of all files",
    ),
    "floats": (noise(0.1, np.float32), "8 of 8 images of floats hold values from 0 to 0.1 only, 26 of 255 .*; stretch"),
    "truth values": (noise(1, np.int32), "8 of 8 images are decoded to values from 0 to 1 of 255 only; stretch"),
    "colours": (deep_png(COLOURS * 4095), "8 of 8 images are decoded to values from 0 to 15 of 255 only; stretch"),
    "small": (
        saved(Image.fromarray(np.eye(8, dtype=np.uint8))),
        "8 of 8 images are decoded to values from 0 to 1 of 255 only; stretch the values of all files alike",
    ),
}


@each_of("kind", FAINT)
def test_set_of_few_grey_levels_is_noted(tmp_path, kind):
    data, expected = FAINT[kind]
    index = build_index(image_set(tmp_path, data))
    (note,) = pixel_notes(stored_again(index))
    assert re.search(expected, note), note


def test_sets_that_use_their_range_are_not_noted(tmp_path):
    black = saved(Image.new("I;16", (80, 70)))
    full = [noise(top, dtype) for top, dtype in ((65535, np.uint16), (20000, np.uint16), (65535, np.uint16))]
    assert pixel_notes(build_index(image_set(tmp_path / "deep", black, *full))) == ()
    small = [saved(Image.new("RGB", (8, 8), (value,) * 3)) for value in (0, 200, 90, 255)]
    assert pixel_notes(build_index(image_set(tmp_path / "small", *small))) == ()


def test_frames_and_alpha_are_counted(tmp_path):
    frames = [Image.new("RGB", (70, 80), colour) for colour in ("red", "blue")]
    several = [
        saved(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "PNG", "TIFF", "MPO")
    ]
    index = build_index(image_set(tmp_path / "frames", *several))
    assert pixel_notes(index) == ("6 of 8 images have several frames or pages each, of which the first is read",)
    drawings = [saved(Image.new(mode, size, "white")) for mode in ("RGBA", "RGB") for size in ((80, 70), (8, 8))]
    index = build_index(image_set(tmp_path / "alpha", *drawings))
    (note,) = pixel_notes(index)
    assert note.startswith("2 of 8 images have alpha channels, dropped as torchvision does: ")  # the small are opaque
    cube = build_index(image_set(tmp_path / "cube", fits(np.stack([RAMP, RAMP]).astype(np.float32))))
    assert pixel_notes(cube) == ("8 of 8 images have several frames or pages each, of which the first is read",)


def test_earlier_index_has_no_notes_on_pixels(tmp_path):
    index = build_index(image_set(tmp_path, noise(255, np.uint16)))
    again = stored_again(index, lambda table: table.drop_columns(["low", "high", "white", "several", "alpha"]))
    assert (pixel_notes(again), len(again.train), again.bits) == ((), 4, None)
