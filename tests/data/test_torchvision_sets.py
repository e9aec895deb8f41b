"""Sets of torchvision by name, written once as Parquet."""

import gzip

import numpy as np
import pytest
import torch
from image_files import png, refusal
from PIL import Image
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.images import load_native_uint8
from wmdd.data.layouts.sources import list_files
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.data.torchvision_sets import from_torchvision
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
    (file,) = [item["name"] for item in store.folder.entries(index.url) if item["name"].endswith(".parquet")]
    before = store.folder.read(file)
    store.folder.write(file, b"not written again")
    assert from_torchvision(FAKE, store.folder, False) == index.url
    assert store.folder.read(file) == b"not written again" != before


def test_large_set_is_written_in_files_of_bounded_size(store, monkeypatch):
    from wmdd.data import torchvision_sets

    whole = build_index(from_torchvision(FAKE, ArtifactStore(f"{store.url}/whole").folder, False))
    monkeypatch.setattr(torchvision_sets, "ROW_GROUP_BYTES", 500)
    monkeypatch.setattr(torchvision_sets, "FILE_BYTES", 2000)
    seen = []
    url = from_torchvision(FAKE, store.folder, False, lambda done, total: seen.append((done, total)))
    files = sorted(item["name"].rpartition("/")[2] for item in store.folder.entries(url))
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


def test_files_of_another_version_are_dropped(store):
    url = from_torchvision(FAKE, store.folder, False)
    store.folder.remove(f"{url}/complete.json")
    store.folder.write(f"{url}/train-00000-of-00001.parquet", store.folder.read(f"{url}/train-00000.parquet"))
    assert from_torchvision(FAKE, store.folder, False) == url
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
    url = from_torchvision(f"torchvision:FashionMNIST?root={tmp_path}/files", store.folder, False)
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
    index = build_index(from_torchvision(f"torchvision:OxfordIIITPet?root={pets}", store.folder, False))
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

    assert re.search(message, refusal(lambda: from_torchvision(path, store.folder, False)))


@each_of("target", [{"boxes": []}, torch.tensor([True, False]), "a sentence"])
def test_set_of_torchvision_without_classes_is_refused(store, target, monkeypatch):
    from torchvision.datasets import FakeData

    shown = FakeData.__getitem__
    monkeypatch.setattr(FakeData, "__getitem__", lambda self, place: (shown(self, place)[0], target))
    assert "its images have no class each" in refusal(lambda: from_torchvision(FAKE, store.folder, False))
