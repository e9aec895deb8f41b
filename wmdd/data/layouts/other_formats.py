"""Sets of other formats, which are refused with what they are and the remedy."""

from __future__ import annotations

import re
from collections.abc import Collection

from wmdd.data.layouts.folder_tree import Folders
from wmdd.data.layouts.set_files import has_image_suffix
from wmdd.errors import DataError
from wmdd.text import and_more

_WRITE = "write each image to train/CLASS/NAME.png, or Parquet with the columns image and label"
_UNPACK_EACH = "unpack each into a folder of its name, train/CLASS"
# Files without a suffix, which might be images: known by all of their name.
_PUBLISHED = {
    r"(data_batch_\d|test_batch|batches\.meta)(\.bin|\.txt)?": (
        "holds CIFAR-10 as it is published; give torchvision:CIFAR10?root=FOLDER, the folder above cifar-10-batches-py"
    ),
    r"(train|t10k|emnist-\w+)-(images|labels)[-.]idx\d-ubyte(\.gz)?": (
        "holds idx files, as MNIST is published; give torchvision:MNIST, FashionMNIST, KMNIST or EMNIST"
    ),
    r"(train|validation|val|test)-\d{5}-of-\d{5}": f"holds TFRecord files; {_WRITE}",
    r".*\.tfrecords?(-\d+-of-\d+)?(\.gz)?": f"holds TFRecord files; {_WRITE}",
    r"dataset_dict\.json|state\.json": (
        'is a folder of save_to_disk; write Parquet with ds["train"].to_parquet("train-0.parquet"), where ds is what '
        "datasets.load_from_disk reads"
    ),
}
_SUFFIXES = (
    (r"\.arrow", 'holds Arrow files; write Parquet with ds["train"].to_parquet("train-0.parquet")'),
    (r"n\d{8}\.tar", f"holds a tar file for each class, as ImageNet is published; {_UNPACK_EACH}"),
    (r"\d\.tar(\.gz)?|\.tar\.\d+", f"holds tar files, as WebDataset; unpack them, and {_WRITE}"),
    (r"\.(tar|tgz|tar\.(gz|bz2|xz))", "holds an archive; unpack it, or give tar://::FILE"),
    (r"\.(7z|rar|gz|bz2|xz|zst|tar\.\w+)", "holds an archive; unpack it"),
    (r"\.zip", "holds an archive; unpack it, or give zip://::FILE"),
    (r"\.npz|\.npy", f"holds NumPy arrays; {_WRITE}"),
    (r"\.mat", f"holds MATLAB files; {_WRITE}"),
    (r"\.(h5|hdf5)", f"holds HDF5 files; {_WRITE}"),
    (r"\.(pkl|pickle|pt|pth)", f"holds pickles, which are not read; {_WRITE}"),
    (r"\.(rec|idx|mdb|lmdb|beton)", f"holds records of another tool; {_WRITE}"),
    (r"\.(csv|tsv)", f"holds tables of text and no images; {_WRITE}"),
    (r"\.(mp4|avi|mov|mkv|webm|mpe?g)", f"holds videos; {_WRITE}"),
)


def refuse_other_format(url: str, paths: Collection[str], tree: Folders) -> None:
    """Raise DataError if a set without class folders, or without a named image, is one of another format."""
    names = [path.rpartition("/")[2].lower() for path in paths]
    if not any(map(has_image_suffix, names)):
        for pattern, text in _PUBLISHED.items():
            if any(re.fullmatch(pattern, name) for name in names):
                raise DataError(f"data.path={url}: {text}")
    if tree.below(""):
        return
    if any("\\" in path for path in paths):
        raise DataError(f"data.path={url}: its names have backslashes, as some tools of Windows pack; pack it again")
    reader = _reader(url.lower())
    if "::" not in url and (reader or url.lower().endswith((".7z", ".rar"))):
        how = f"unpack it, or give {reader}://::{url}" if reader else "unpack it"
        raise DataError(f"data.path={url}: is an archive; {how}")
    if "" in tree.images:
        first, count = tree.images[""]
        raise DataError(
            f"data.path={url}: {first}{and_more(count - 1)} lies in no class folder; expected train/CLASS/*.jpg, "
            "CLASS/*.jpg or train-*.parquet"
        )
    for pattern, text in _SUFFIXES:
        if found := next((path for path in sorted(paths) if re.search(f"({pattern})$", path.lower())), None):
            place = f"{url.rstrip('/')}/{found}"
            archives = [path for path in paths if _reader(path.lower())]
            if "::FILE" in text and len(archives) > 1:
                text = f"holds {len(archives)} archives; unpack them, if each is a class into train/CLASS"
            raise DataError(f"data.path={url}: {text.replace('FILE', place)} ({found})")


def _reader(name: str) -> str:
    """Return the protocol of the file system that reads an archive of this name; "" if none does."""
    if name.endswith(".zip"):
        return "zip"
    return "tar" if re.search(r"\.(tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", name) else ""
