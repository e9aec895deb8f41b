"""A user's own images, as a folder and as Parquet: mixed sizes and modes, and a file that is damaged inside."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import call, contents, distill, news
from PIL import Image

from wmdd.distilled import load_distilled

NAMES = ("ant", "bee", "cow")
SMALL = ("--data.image_size", "16", "--pretrain.batch_size", "8", "--evaluate.num_students", "1")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Three classes as JPEG, PNG, greyscale, palette and CMYK files of mixed size, told apart by colour."""
    root, rng = tmp_path_factory.mktemp("zoo"), np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 5)):
        for class_id, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (18 + i, 30 - i, 3), dtype=np.uint8)
                pixels[:, :, class_id] += 120
                mode, suffix = (("RGB", "jpg"), ("L", "png"), ("P", "png"), ("CMYK", "jpg"), ("RGBA", "png"))[i % 5]
                Image.fromarray(pixels).convert(mode).save(root / split / name / f"{i}.{suffix}")
    return root


@pytest.fixture(scope="module")
def folder_run(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    result = distill(folder, "--data.path", zoo, *SMALL, recipe="cifar10", begin=call)
    assert result.returncode == 0, result.stderr
    return folder


def as_parquet(zoo, root):
    """The same files in the layout of Hugging Face `datasets`, split over shards, in the folder's order."""
    root.mkdir()
    features = {"image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    for split, name in (("train", "train"), ("val", "validation")):
        paths = sorted((zoo / split).glob("*/*"))
        for shard, part in enumerate((paths[:7], paths[7:])):
            images = [{"bytes": path.read_bytes(), "path": path.name} for path in part]
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            labels = pa.array([NAMES.index(path.parent.name) for path in part], pa.int64())
            table = pa.table({"image": pa.array(images, kind), "label": labels}).replace_schema_metadata(note)
            pq.write_table(table, root / f"{name}-{shard:05d}-of-00002.parquet", row_group_size=4)
    return root


def test_folder_of_mixed_images_is_distilled(folder_run):
    images = load_distilled(str(folder_run / "runs/cifar10"))
    assert images.class_names == NAMES
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert tuple(images.images.shape) == (6, 3, 16, 16)


def test_the_same_images_as_parquet_give_the_same_run(zoo, folder_run, tmp_path):
    result = distill(tmp_path, "--data.path", as_parquet(zoo, tmp_path / "set"), *SMALL, recipe="cifar10", begin=call)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "runs/store") == contents(folder_run / "runs/store")
    assert load_distilled(str(tmp_path / "runs/cifar10")).class_names == NAMES


def test_image_damaged_inside_is_named_in_training(zoo, tmp_path):
    copy = tmp_path / "set"
    for path in zoo.glob("*/*/*"):
        target = copy / path.relative_to(zoo)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    broken, whole = copy / "train/bee/5.jpg", (copy / "train/bee/5.jpg").read_bytes()
    Image.new("RGB", (90, 70)).save(broken)
    data = broken.read_bytes()
    codes = data.index(b"\xff\xc4") + 5
    broken.write_bytes(data[:codes] + b"\xff" * 16 + data[codes + 16 :])  # header and end are there for the index
    result = distill(tmp_path, "--data.path", copy, *SMALL, recipe="cifar10", begin=call)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("wmdd: pretrain of teacher failed: ")
    assert "train/bee/5.jpg" in line
    # What needs no teacher is finished all the same.
    assert {item["stage"] for item in news(tmp_path / "runs/cifar10") if item["kind"] == "unit"} == {"select"}
    broken.write_bytes(whole)
    again = distill(tmp_path, "--data.path", copy, *SMALL, recipe="cifar10", begin=call)
    assert again.returncode == 0, again.stderr


def test_plan_shows_the_classes_and_what_is_odd(tmp_path):
    for split, count in (("Training", 3), ("Testing", 2)):
        for name in ("glioma[1]", "healthy"):
            (tmp_path / "mri" / split / name).mkdir(parents=True)
            for i in range(count):
                path = tmp_path / "mri" / split / name / f"{i}.png"
                Image.new("RGB", (20, 20), (len(name), i, count)).save(path)
    for i in range(2):
        copy = (tmp_path / f"mri/Training/healthy/{i}.png").read_bytes()
        (tmp_path / f"mri/Testing/healthy/{i}.png").write_bytes(copy)
    planned = call(tmp_path, "plan", "cifar10-quick", "--ipc", "1", "--data.path", "mri")
    assert planned.returncode == 0, planned.stderr
    lines = planned.stdout.splitlines()
    assert "2 classes, 6 training and 4 validation images" in lines
    assert "classes (training, validation images): glioma[1] (3, 2), healthy (3, 2)" in lines
    assert "Training is read as the training split, Testing as the validation split" in lines
    assert "2 of 4 validation images are training images too: accuracy on them says little" in lines
