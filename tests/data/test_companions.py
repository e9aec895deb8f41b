"""Masks and copies next to the images of a class: noted by their names, and never taken for what they are not."""

from image_files import folder
from tables import each_of

from wmdd.data.layouts.companions import companion_notes
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index

NUMBERS = range(4)


def notes(*names):
    """The notes of a set of two classes whose folders hold these files, ``#`` being an image's number."""
    paths = [f"train/{name}/{file.replace('#', str(i))}" for name in ("cat", "dog") for i in NUMBERS for file in names]
    places = {path.rpartition("/")[0]: ("train", path.split("/")[1]) for path in paths}
    return companion_notes(paths, places)


@each_of(
    ("image", "mask"),
    [
        ("benign (#).png", "benign (#)_mask.png"),
        ("benign (#).png", "benign (#)_mask_1.png"),
        ("#.jpg", "#_seg.png"),
        ("ISIC_#.jpg", "ISIC_#_segmentation.png"),
        ("#.png", "#-GT.png"),
        ("#.png", "#.label.png"),
        ("#.png", "mask_#.png"),
        ("#_rgb.png", "#_mask.png"),
        ("images/#.png", "masks/#.png"),
        ("images/#.png", "Masks/#_mask.png"),
        ("#.png", "ground_truth/#.png"),
        ("#.jpg", "thumbs/#.jpg"),
        ("#.jpg", "#_thumb.jpg"),
    ],
)
def test_masks_beside_the_images_are_noted(image, mask):
    (note,) = notes(image, mask)
    first = f"train/cat/{mask.replace('#', '0')} of train/cat/{image.replace('#', '0')}"
    assert note.startswith(
        f"8 of 16 images are named as masks or thumbnails of others ({first}), and are learned as images"
    )


def test_image_in_two_formats_is_noted():
    (note,) = notes("#.jpg", "#.PNG")
    told = "8 of 16 images differ from another one in nothing but their ending (train/cat/0.PNG, train/cat/0.jpg)"
    assert note.startswith(told)


@each_of(
    "names",
    [("#.png",), ("with_mask_#.png",), ("#_mask.png",), ("#.png", "label_a#.png"), ("left.#", "right.#"),
     ("a/#.png", "b/#.png"), ("#.png", "gtr_#.png"), ("scan.#",)],
    ids=str,
)  # fmt: skip
def test_names_that_sound_like_masks_are_not_noted(names):
    assert notes(*names) == ()


def test_class_of_masks_is_not_noted():
    paths = [f"train/{name}/{i}.png" for name in ("mask", "no_mask") for i in range(20)]
    places = {f"train/{name}": ("train", name) for name in ("mask", "no_mask")}
    assert companion_notes(paths, places) == ()
    assert companion_notes([*paths, "train/mask/3_mask.png", "train/mask/4.jpg"], places) == ()
    assert companion_notes([], {}) == ()


def test_set_with_masks_is_read_whole_with_a_note(tmp_path):
    names = [f"{name}/{i}{end}.png" for name in ("benign", "normal") for i in range(3) for end in ("", "_mask")]
    url = folder(tmp_path, *names)
    assert any(
        note.startswith("6 of 12 images are named as masks or thumbnails of others") for note in list_files(url).notes
    )
    assert len(build_index(url).train) == 8
