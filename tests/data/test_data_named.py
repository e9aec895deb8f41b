"""Sets by name and as they are published: torchvision's, parts of ImageNet-1K, Tiny-ImageNet's own folders."""

import gzip

import numpy as np
import pytest
import torch
from image_files import TWO_CLASSES, folder, png, refusal
from PIL import Image
from tables import each_of

from wmdd.config.distill import override, parse_config
from wmdd.config.recipes import recipe
from wmdd.data.imagenet_subsets import subset_classes
from wmdd.data.images import load_native_uint8
from wmdd.data.layouts.sources import list_files
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.data.torchvision_sets import from_torchvision
from wmdd.engine.board import Board
from wmdd.engine.plan import make_plan
from wmdd.engine.run import run_plans
from wmdd.errors import ConfigError
from wmdd.storage.store import ArtifactStore

FAKE = "torchvision:FakeData?size=12&num_classes=3&image_size=[3,9,7]"


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"))


def test_set_of_torchvision_becomes_parquet_once(store):
    from torchvision.datasets import FakeData

    index, _ = load_index(override(recipe("digits"), {"data.path": FAKE}), store, lambda done, total: None)
    assert index.kind == "parquet"
    assert (index.class_names, len(index.train) + len(index.val), index.val_held_out) == (("0", "1", "2"), 12, True)
    theirs = [(np.asarray(image).transpose(2, 0, 1), int(label)) for image, label in FakeData(12, (3, 9, 7), 3)]
    for split in ("train", "val"):
        rows = getattr(index, split)
        for place, image in enumerate(load_native_uint8(index, split, np.arange(len(rows)))):
            pixels, label = theirs[int(rows.row[place])]
            assert int(rows.label[place]) == label
            np.testing.assert_array_equal(image.numpy(), pixels)
    (file,) = [item["name"] for item in store.entries(index.url) if item["name"].endswith(".parquet")]
    before = store.get(file)
    store.put(file, b"not written again")
    assert from_torchvision(FAKE, store, False) == index.url
    assert store.get(file) == b"not written again" != before


def test_large_set_is_written_in_files_of_bounded_size(store, monkeypatch):
    from wmdd.data import torchvision_sets

    whole = build_index(from_torchvision(FAKE, ArtifactStore(f"{store.url}/whole"), False))
    monkeypatch.setattr(torchvision_sets, "ROW_GROUP_BYTES", 500)
    monkeypatch.setattr(torchvision_sets, "FILE_BYTES", 2000)
    seen = []
    url = from_torchvision(FAKE, store, False, lambda done, total: seen.append((done, total)))
    files = sorted(item["name"].rpartition("/")[2] for item in store.entries(url))
    assert files[:3] == ["complete.json", "train-00000.parquet", "train-00001.parquet"]
    assert seen[-1] == (12, 12)
    assert len(seen) > len(files)
    cut = build_index(url)
    for split in ("train", "val"):
        assert cut.digest(split) == whole.digest(split)


def test_set_of_torchvision_is_written_upright(store, monkeypatch):
    from torchvision.datasets import FakeData

    exif = Image.Exif()
    exif[0x0112] = 6
    drawn = FakeData.__getitem__

    def photograph(self, place):
        image, label = drawn(self, place)
        image.info["exif"] = exif.tobytes()
        return image, label

    monkeypatch.setattr(FakeData, "__getitem__", photograph)
    config = override(recipe("digits"), {"data.path": FAKE})
    stored, _ = load_index(config, store, lambda done, total: None)
    turned, _ = load_index(override(config, {"data.exif_orientation": "apply"}), store, lambda done, total: None)
    assert (stored.train.uniform_size(), turned.train.uniform_size()) == ((9, 7), (7, 9))


def test_orientation_is_noted_and_enters_all_keys(store, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    url = folder(tmp_path / "set", *TWO_CLASSES)
    for grey, name in enumerate(("train/a/0.png", "val/b/1.png")):
        Image.new("RGB", (8, 6), (grey,) * 3).save(f"{url}/{name}", exif=exif)
    config = override(
        recipe("cifar10-quick"),
        {
            "data.path": url,
            "barycenter.ipc": 1,
            "pretrain.model": "convnet2_w16",
            "evaluate.students": ("convnet2_w16",),
        },
    )
    stored, turned = (make_plan(override(config, {"data.exif_orientation": how}), store) for how in ("ignore", "apply"))
    assert stored.index.notes == (
        "2 of 8 images carry an EXIF orientation, which is ignored, as torchvision does; "
        "--data.exif_orientation apply turns them upright",
    )
    assert turned.index.notes == ()
    assert stored.index_ref != turned.index_ref
    for stage in ("pretrain", "statistics", "barycenter", "recover", "relabel", "evaluate"):
        assert not set(stored.refs(stage)) & set(turned.refs(stage))
    again = make_plan(config, store)
    assert (again.tasks, again.index_ref) == (stored.tasks, stored.index_ref)
    assert "exif_orientation" not in config.data.for_key()
    told = []
    run_plans({"": stored}, store, _Idle(), told.append)
    assert [event.text for event in told if event.kind == "note"] == list(stored.index.notes)


class _Idle:
    """Runs nothing."""

    def run(self, tasks, missing, store, listener):
        return Board([], missing)

    def close(self):
        pass


def test_files_of_another_version_are_dropped(store):
    url = from_torchvision(FAKE, store, False)
    store.drop(f"{url}/complete.json")
    store.put(f"{url}/train-00000-of-00001.parquet", store.get(f"{url}/train-00000.parquet"))
    assert from_torchvision(FAKE, store, False) == url
    assert len(list_files(url).files["train"]) == 1


def test_published_files_have_names_and_both_splits(store, tmp_path):
    raw = tmp_path / "files/FashionMNIST/raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 20), ("t10k", 10)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10
        for kind, array, magic in (("images-idx3", images, 0x803), ("labels-idx1", labels, 0x801)):
            head = np.array([magic, *array.shape], ">u4").tobytes()
            (raw / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    url = from_torchvision(f"torchvision:FashionMNIST?root={tmp_path}/files", store, False)
    index = build_index(url)
    assert (len(index.train), len(index.val), index.val_held_out) == (20, 10, False)
    assert index.class_names[0] == "T-shirt/top"
    assert len(index.class_names) == 10


@pytest.fixture
def pets(tmp_path):
    """A few images in the folders of torchvision's OxfordIIITPet, which has no split called train."""
    root = tmp_path / "files/oxford-iiit-pet"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for split, count in (("trainval", 6), ("test", 4)):
        names = [f"{('Abyssinian', 'beagle')[i % 2]}_{split}{i}" for i in range(count)]
        lines = "".join(f"{name} {1 + i % 2} 1 1\n" for i, name in enumerate(names))
        (root / f"annotations/{split}.txt").write_text(lines)
        for i, name in enumerate(names):
            (root / f"images/{name}.jpg").write_bytes(png(10 * count + i))
    return tmp_path / "files"


def test_set_without_a_train_split_is_read_by_its_own(store, pets):
    index = build_index(from_torchvision(f"torchvision:OxfordIIITPet?root={pets}", store, False))
    assert (len(index.train), len(index.val), index.val_held_out, len(index.class_names)) == (6, 4, False, 2)


@each_of(
    ("name", "train", "val"),
    [
        ("Places365", {"split": "train-standard"}, {"split": "val"}),
        ("INaturalist", {"version": "2021_train"}, {"version": "2021_valid"}),
        ("EMNIST", {"train": True}, {"train": False}),
        ("SVHN", {"split": "train"}, {"split": "test"}),
    ],
)
def test_splits_are_asked_for_as_each_set_names_them(name, train, val, monkeypatch):
    import torchvision.datasets as zoo

    from wmdd.data import torchvision_sets

    asked = []
    kind = getattr(zoo, name)
    monkeypatch.setattr(kind, "__new__", lambda cls, **arguments: asked.append(arguments))
    options = {"split": "letters"} if name == "EMNIST" else {}
    for split in ("train", "val"):
        torchvision_sets._open("x", kind, split, options, True)
    for given, expected in zip(asked, (train, val), strict=True):
        assert expected.items() <= given.items()


@each_of(
    ("path", "message"),
    [
        ("torchvision:CIFR10", "torchvision has no such set; did you mean CIFAR10 or CIFAR100? .*__all__ lists all"),
        ("torchvision:os", "torchvision has no such set; common ones are CIFAR10, CIFAR100, MNIST, "),
        ("torchvision:fashion-mnist", "torchvision has no such set; did you mean FashionMNIST"),
        ("torchvision:CIFAR10?root=/nowhere", r"not found or corrupted.*looked in /nowhere.*--data\.download true"),
        ("torchvision:CIFAR10?colour=1", "unexpected keyword argument 'colour'"),
    ],
)
def test_set_that_is_not_there_is_told(store, path, message):
    import re

    assert re.search(message, refusal(lambda: from_torchvision(path, store, False)))


@each_of("target", [{"boxes": []}, torch.tensor([True, False]), "a sentence"])
def test_set_of_torchvision_without_classes_is_refused(store, target, monkeypatch):
    from torchvision.datasets import FakeData

    shown = FakeData.__getitem__
    monkeypatch.setattr(FakeData, "__getitem__", lambda self, place: (shown(self, place)[0], target))
    assert "its images have no class each" in refusal(lambda: from_torchvision(FAKE, store, False))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A thousand classes; all but the named ones hold what is no image."""
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(1000):
        for split in ("train", "val"):
            folder = root / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            woof = number in (193, 182, 258, 162, 155, 167, 159, 273, 207, 229)
            (folder / "0.png").write_bytes(png(number) if woof else b"broken")
    return str(root)


def test_part_of_imagenet_reads_its_classes_in_order(imagenet, store):
    config = override(recipe("imagenette"), {"data.path": imagenet, "data.subset": "imagewoof"})
    index, _ = load_index(config, store, lambda done, total: None)
    assert index.class_names[:3] == ("n00000193", "n00000182", "n00000258")
    assert (len(index.train), len(index.val)) == (10, 10)


def test_whole_imagenet_for_the_recipe_of_a_part_is_no(imagenet, store):
    config = override(recipe("imagenette"), {"data.path": imagenet})
    told = refusal(lambda: load_index(config, store, lambda done, total: None))
    assert "has 1,000 classes" in told
    assert "--data.subset imagenette" in told


def test_part_of_another_set_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.png").write_bytes(png(0))
    told = refusal(lambda: subset_classes("imagenette", str(tmp_path), list_files(str(tmp_path))))
    assert "is cut out of all 1,000 classes of ImageNet-1K" in told
    assert "has 2" in told
    with pytest.raises(ConfigError, match=r"data\.subset='nosuch'.*'imagenette'"):
        parse_config({"data": {"subset": "nosuch"}})


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
