"""Sets of other formats and archives are refused with the remedy."""

import zipfile

from image_files import CLASSES, counts, images, png, refusal
from tables import each_of

from wmdd.data.scan import build_index


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(names):
            archive.writestr(name, png(seed))
    return str(path)


def test_archive_is_read_from_its_root(tmp_path):
    file = zipped(tmp_path / "a.zip", *images("set/Training", "set/Testing"), "__MACOSX/set/._x.png")
    assert f"is an archive; unpack it, or give zip://::{file}" in refusal(lambda: build_index(file))
    assert counts(build_index(f"zip://::{file}")) == (CLASSES, 4, 4, False)


def test_archive_with_backslashes_is_refused(tmp_path):
    file = zipped(tmp_path / "a.zip", *(name.replace("/", "\\") for name in images("train", "val")))
    told = refusal(lambda: build_index(f"zip://::{file}"))
    assert "its names have backslashes" in told
    assert "pack it again" in told


def test_archive_url_without_an_archive_is_corrected(tmp_path):
    file = zipped(tmp_path / "a.zip", *images("train", "val"))
    assert f"names no archive; give zip://::{file}" in refusal(lambda: build_index(f"zip://{file}"))
    told = refusal(lambda: build_index(f"zip://nothing::{file}"))
    assert f"zip://::{file} for all of the archive" in told
    empty = zipped(tmp_path / "empty.zip", "notes.txt")
    assert "zip://FOLDER::zip://" not in refusal(lambda: build_index(f"zip://::{empty}"))


@each_of(
    ("files", "told"),
    [
        (("dataset_dict.json", "train/data-00000-of-00001.arrow", "train/state.json"), "is a folder of save_to_disk"),
        (("data_batch_1", "test_batch", "batches.meta"), "torchvision:CIFAR10?root="),
        (("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"), "torchvision:MNIST"),
        (("train-00000-of-00010",), "holds TFRecord files"),
        (("train/a.tfrecord",), "holds TFRecord files"),
        (("train-000000.tar", "train-000001.tar"), "holds tar files, as WebDataset"),
        (("mnist.npz",), "holds NumPy arrays"),
        (("train/x.npy", "train/y.npy"), "holds NumPy arrays"),
        (("train.csv", "test.csv"), "holds tables of text and no images"),
        (("a.h5",), "holds HDF5 files"),
        (("a.pkl",), "holds pickles"),
        (("a.tar.gz",), "holds an archive; unpack it"),
        (("notes.txt",), "holds tables"),
    ],
)
def test_set_of_another_format_is_told_what_to_do(tmp_path, files, told):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    message = refusal(lambda: build_index(str(tmp_path)))
    assert told in message or ("notes.txt" in files and "holds no images; expected" in message)


@each_of(
    ("files", "told"),
    [
        (("train/n01440764.tar", "train/n01443537.tar"), "holds a tar file for each class, as ImageNet is published"),
        (("cat.zip", "dog.zip"), "holds 2 archives; unpack them, if each is a class into train/CLASS"),
        (("a.tar.gz",), "holds an archive; unpack it, or give tar://::"),
        (("a.zip",), "holds an archive; unpack it, or give zip://::"),
    ],
)
def test_archives_are_told_what_to_do(tmp_path, files, told):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    message = refusal(lambda: build_index(str(tmp_path)))
    assert told in message
    if len(files) == 1:
        assert f"::{tmp_path}/{files[0]} ({files[0]})" in message
        assert told.removeprefix("holds an archive; ") in refusal(lambda: build_index(f"{tmp_path}/{files[0]}"))
