"""Validation images in one folder whose classes are in a list, as two sets are published."""

from __future__ import annotations

from collections.abc import Collection

from wmdd.data.layouts.set_files import open_file_system
from wmdd.errors import DataError
from wmdd.storage.filesystem import read

TINY_LIST, TINY_IMAGES = "val/val_annotations.txt", "val/images/"
KAGGLE_LIST = "LOC_val_solution.csv"


def read_annotations(url: str, images: list[str], rest: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return the classes of annotated validation images by their paths, and all images of the set.

    Raises:
        DataError: if a list cannot be read.
    """
    lists = [path for path in rest if path == TINY_LIST or path.endswith(f"/{TINY_LIST}")]
    if len(lists) == 1 and (annotated := _of_tiny_imagenet(url, lists[0], images)):
        train = f"{lists[0].removesuffix(TINY_LIST)}train/"
        return annotated, [path for path in images if path in annotated or path.startswith(train)]
    lists = [path for path in rest if path.rpartition("/")[2] == KAGGLE_LIST]
    return (_of_kaggle(url, lists[0], images) if len(lists) == 1 else {}), images


def _of_tiny_imagenet(url: str, list_path: str, images: Collection[str]) -> dict[str, str]:
    """Return the classes of Tiny-ImageNet's validation images, from its list of file and class."""
    folder = f"{list_path.removesuffix(TINY_LIST)}{TINY_IMAGES}"
    known = {path for path in images if path.startswith(folder)}
    if not known:  # sorted into class folders already
        return {}
    pairs = [line.split("\t")[:2] for line in _lines(url, list_path)]
    try:
        return {f"{folder}{file}": name for file, name in pairs if f"{folder}{file}" in known}
    except ValueError as exc:
        raise _unreadable(url, list_path) from exc


def _of_kaggle(url: str, list_path: str, images: Collection[str]) -> dict[str, str]:
    """Return the classes of ImageNet's validation images, from Kaggle's list of name, class and boxes."""
    unsorted = [path for path in images if path.split("/")[-2:-1] == ["val"]]
    if not unsorted:
        return {}
    pairs = [line.split(",", 1) for line in _lines(url, list_path)]
    if not all(len(pair) == 2 and pair[1].strip() for pair in pairs):
        raise _unreadable(url, list_path)
    classes = {name: boxes.split()[0] for name, boxes in pairs}
    names = {path: path.rpartition("/")[2].partition(".")[0] for path in unsorted}
    return {path: classes[name] for path, name in names.items() if name in classes}


def _lines(url: str, path: str) -> list[str]:
    fs, root = open_file_system(url)
    try:
        return [line for line in read(fs, f"{root}/{path}").decode().splitlines() if line.strip()]
    except (OSError, EOFError, ValueError) as exc:
        raise _unreadable(url, path) from exc


def _unreadable(url: str, path: str) -> DataError:
    return DataError(f"data.path={url}: {path} cannot be read as file and class; restore it")
