"""Validation images whose classes are in a list: ImageNet of Kaggle, and Tiny-ImageNet."""

import pytest
from image_files import counts, folder, images, png, refusal

from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index

NETS = ("n01440764", "n01443537")


def kaggle(root, lines):
    """Write ImageNet as Kaggle has it, with a list of validation images in the root."""
    inner = "ILSVRC/Data/CLS-LOC"
    url = folder(
        root, *images(f"{inner}/train", classes=NETS), *(f"{inner}/val/ILSVRC2012_val_{i}.JPEG" for i in range(4))
    )
    folder(root, f"{inner}/test/ILSVRC2012_test_0.JPEG")
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines, ""]))
    return url


def test_imagenet_of_kaggle_is_read_with_its_list(tmp_path):
    lines = [f"ILSVRC2012_val_{i},{NETS[i % 2]} 85 1 499 272 {NETS[i % 2]} 1 2 3 4" for i in range(4)]
    index = build_index(kaggle(tmp_path, lines))
    assert counts(index) == (NETS, 4, 4, False)
    assert index.val.label.tolist() == [0, 1, 0, 1]
    inner = tmp_path / "ILSVRC/Data/CLS-LOC"
    told = refusal(lambda: build_index(str(inner)))
    assert "val/ILSVRC2012_val_0.JPEG (and 3 more) lies in no class folder; sort these into val/CLASS, or put" in told
    assert "LOC_val_solution.csv of ImageNet next to train; or move val away, and data.val_fraction" in told
    (tmp_path / "LOC_val_solution.csv").rename(inner / "LOC_val_solution.csv")
    assert build_index(str(inner)).val.label.tolist() == [0, 1, 0, 1]


def test_validation_image_that_the_list_lacks_is_named(tmp_path):
    url = kaggle(tmp_path, [f"ILSVRC2012_val_{i},{NETS[0]} 85 1 499 272" for i in range(3)])
    assert "val/ILSVRC2012_val_3.JPEG lies in no class folder" in refusal(lambda: build_index(url))
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId\n")
    assert "LOC_val_solution.csv cannot be read as file and class" in refusal(lambda: build_index(url))


@pytest.fixture
def tiny(tmp_path):
    """Tiny-ImageNet as its archive unpacks."""
    root = tmp_path / "tiny-imagenet-200"
    for number, name in enumerate(("n01", "n02")):
        (root / "train" / name / "images").mkdir(parents=True)
        (root / "train" / name / f"{name}_boxes.txt").write_text("0.JPEG\t0\t0\t1\t1\n")
        for image in range(3):
            (root / "train" / name / "images" / f"{name}_{image}.JPEG").write_bytes(png(10 * number + image))
    (root / "val/images").mkdir(parents=True)
    (root / "test/images").mkdir(parents=True)
    (root / "test/images/test_0.JPEG").write_bytes(png(99))
    for image in range(4):
        (root / "val/images" / f"val_{image}.JPEG").write_bytes(png(50 + image))
    lines = [f"val_{image}.JPEG\tn0{1 + (image in (1, 2))}\t0\t0\t62\t62" for image in range(4)]
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tcat\nn02\tdog\n")
    return root


def test_tiny_imagenet_is_read_as_it_is_unpacked(tiny):
    index = build_index(str(tiny))
    assert (index.class_names, len(index.train), index.val_held_out) == (("n01", "n02"), 6, False)
    named = dict(zip((index.val.files[file] for file in index.val.file), index.val.label.tolist(), strict=True))
    assert named == {f"val/images/val_{image}.JPEG": int(image in (1, 2)) for image in range(4)}


def test_tiny_imagenet_is_found_in_a_folder_above(tiny):
    index = build_index(str(tiny.parent))
    assert (index.class_names, len(index.train), len(index.val)) == (("n01", "n02"), 6, 4)
    assert index.digest("val") == build_index(str(tiny)).digest("val")


def test_tiny_imagenet_with_sorted_validation_is_read(tiny):
    for line in (tiny / "val/val_annotations.txt").read_text().splitlines():
        image, name = line.split("\t")[:2]
        (tiny / "val" / name / "images").mkdir(parents=True, exist_ok=True)
        (tiny / "val/images" / image).rename(tiny / "val" / name / "images" / image)
    (tiny / "val/images").rmdir()
    index = build_index(str(tiny))
    assert (index.class_names, len(index.train), len(index.val)) == (("n01", "n02"), 6, 4)


def test_another_annotation_is_another_set(tiny):
    before, list_ = list_files(str(tiny)).signature, tiny / "val/val_annotations.txt"
    list_.write_text(list_.read_text().replace("val_0.JPEG\tn01", "val_0.JPEG\tn02"))
    assert list_files(str(tiny)).signature != before
    list_.write_bytes(b"\xff\xfe")
    assert "val/val_annotations.txt cannot be read" in refusal(lambda: list_files(str(tiny)))
