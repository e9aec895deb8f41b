"""Sets that torchvision knows by name, written to the store once as Parquet, which workers read like any other set."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import operator
import os
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wmdd.data.decoding.decoder import turned
from wmdd.data.decoding.pixels import png
from wmdd.data.hf_parquet import image_table
from wmdd.errors import DataError
from wmdd.storage.folder import Folder
from wmdd.text import one_line, suggestion

TORCHVISION = "torchvision:"
COMMON = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN", "Imagenette")
ROOT = "~/.cache/wmdd/torchvision"
ROWS, ROW_GROUP_BYTES, FILE_BYTES = 1000, 2**25, 2**28  # so that memory does not grow with the set
_SPLITS = {"train": ("train", "trainval"), "val": ("test", "val", "valid", "validation")}
# The sets that name their splits in another way, or whose test split has no labels.
_ARGUMENTS = {
    "Places365": {"train": {"split": "train-standard"}, "val": {"split": "val"}},
    "INaturalist": {"train": {"version": "2021_train"}, "val": {"version": "2021_valid"}},
    "LSUN": {"train": {"classes": "train"}, "val": {"classes": "val"}},
}


def from_torchvision(
    path: str,
    folder: Folder,
    download: bool,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    upright: bool = False,
) -> str:
    """Return the URL of a set as Parquet, which is written the first time.

    Args:
        path: ``torchvision:NAME``, or with arguments of its class, ``torchvision:EMNIST?split=letters``; ``root``
            names the folder of torchvision's own files.
        on_progress: called with the images written and their total, for each split.
        upright: turn images as their EXIF orientation asks for; the orientation is not written.

    Raises:
        DataError: for an unknown name, arguments that it does not take, or files that are not there.
    """
    name, _, query = path.removeprefix(TORCHVISION).partition("?")
    options = {key: _value(text) for key, text in urllib.parse.parse_qsl(query)}
    label = urllib.parse.quote(path.removeprefix(TORCHVISION), safe="").replace("%", "_")
    own = f"torchvision/{label}-upright" if upright else f"torchvision/{label}"
    target = f"{folder.url.rstrip('/')}/{own}"
    if folder.read(f"{own}/complete.json") is not None:
        return target
    kind = _kind(path, name)
    counts, written = dict[str, int](), set[str]()
    names: list[str] = []
    for split in _SPLITS:
        images = _open(path, kind, split, options, download)
        if images is not None:
            _check_labels(path, images)
            names = names or _names(images)
            counts[split] = len(images)
            for number, data in enumerate(_files(images, names, on_progress, upright)):
                written.add(f"{split}-{number:05d}.parquet")
                folder.write(f"{own}/{split}-{number:05d}.parquet", data)
    for item in folder.entries(own):  # what an interrupted run of another version left
        name = item["name"].rpartition("/")[2]
        if name not in written:
            folder.remove(f"{own}/{name}")
    folder.write(f"{own}/complete.json", json.dumps({"from": path, "images": counts}).encode())
    return target


def _value(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text


def _kind(path: str, name: str) -> Any:
    import torchvision.datasets as zoo

    kind = getattr(zoo, name, None) if name in zoo.__all__ else None
    if kind is None:
        hint = suggestion(name, zoo.__all__, f"common ones are {', '.join(COMMON)}")
        raise DataError(
            f"data.path={path}: torchvision has no such set; {hint} (in Python, torchvision.datasets.__all__ lists all)"
        )
    return kind


def _open(path: str, kind: Any, split: str, options: dict[str, Any], download: bool) -> Any:
    """Return a split; None if the set has no such split."""
    known = _arguments(kind)
    arguments = dict(options)
    root = os.path.expanduser(str(arguments.pop("root", ROOT)))
    arguments |= {"root": root} if "root" in known else {}
    arguments |= {"download": True} if download and "download" in known else {}
    if "train" in known:
        choices: list[dict[str, Any]] = [{"train": split == "train"}]
    elif kind.__name__ in _ARGUMENTS and not set(_ARGUMENTS[kind.__name__][split]) & set(options):
        choices = [_ARGUMENTS[kind.__name__][split]]
    elif "split" in known and "split" not in options:
        choices = [{"split": name} for name in _SPLITS[split]]
    else:
        choices = [{}] if split == "train" else []
    error: Exception | None = None
    for choice in choices:
        try:
            return kind(**arguments, **choice)
        except (ValueError, TypeError) as exc:  # no split of this name, or no such argument
            error = exc
        except ImportError as exc:
            raise DataError(f"data.path={path}: torchvision needs another package for it ({exc}); install it") from exc
        except (RuntimeError, OSError) as exc:
            hint = "" if download else "; --data.download true fetches it"
            raise DataError(f"data.path={path}: {one_line(exc, 200)} (looked in {root}){hint}") from exc
    if error is not None and split == "train":
        raise DataError(f"data.path={path}: {one_line(error, 200)}") from error
    return None


def _arguments(kind: Any) -> set[str]:
    """Return the arguments of a set's class, and of those that it passes others on to, as EMNIST does to MNIST."""
    known = set[str]()
    for owner in kind.__mro__[:-1]:
        parameters = inspect.signature(owner.__init__).parameters
        known |= set(parameters)
        if not any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
            break
    return known


def _check_labels(path: str, images: Any) -> None:
    label = images[0][1] if len(images) else 0
    try:
        operator.index(label)
    except (TypeError, RuntimeError) as exc:
        raise DataError(
            f"data.path={path}: its images have no class each (the first comes with a {type(label).__name__}); choose "
            "a set for classification"
        ) from exc


def _names(images: Any) -> list[str]:
    """Return the class names in the order of labels; numbers if the set has no names."""
    if getattr(images, "classes", None):
        return [name if isinstance(name, str) else ", ".join(name) for name in images.classes]
    if getattr(images, "class_to_idx", None):
        return sorted(images.class_to_idx, key=images.class_to_idx.get)
    labels = next((getattr(images, name) for name in ("labels", "targets") if hasattr(images, name)), None)
    labels = [images[place][1] for place in range(len(images))] if labels is None else labels
    return [str(number) for number in range(int(max(labels)) + 1)]


def _files(images: Any, names: list[str], on_progress: Callable[[int, int], None], upright: bool) -> Iterator[bytes]:
    """Yield a split as Parquet files, none much larger than `FILE_BYTES`."""
    tables = _tables(images, names, on_progress, upright)
    for first in tables:
        out = io.BytesIO()
        with pq.ParquetWriter(out, first.schema, compression="zstd") as writer:
            writer.write_table(first)
            while out.tell() < FILE_BYTES and (table := next(tables, None)) is not None:
                writer.write_table(table)
        yield out.getvalue()


def _tables(
    images: Any, names: list[str], on_progress: Callable[[int, int], None], upright: bool
) -> Iterator[pa.Table]:
    """Yield row groups of at most `ROWS` images, fewer if these are large."""
    files, labels, size = list[tuple[bytes, str]](), list[int](), 0
    for place in range(len(images)):
        image, label = images[place]
        encoded = png(turned(image) if upright else image)
        files.append((encoded, f"{place:08d}.png"))
        labels.append(int(label))
        size += len(encoded)
        if len(files) == ROWS or size >= ROW_GROUP_BYTES or place == len(images) - 1:
            yield image_table(files, labels, names)
            on_progress(place + 1, len(images))
            files, labels, size = [], [], 0
