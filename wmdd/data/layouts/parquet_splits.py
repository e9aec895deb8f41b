"""Which Parquet files of a set are of which split, by their names, and whether all parts are there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

from wmdd.data.hf_parquet import open_parquet, parquet_columns
from wmdd.data.layouts.folder_tree import Folders
from wmdd.data.layouts.recognise import has_set
from wmdd.data.layouts.split_names import SPLIT_NAMES, VAL_NAMES, split_role
from wmdd.errors import DataError

_PART = re.compile(r"(?P<stem>.*?)[-_.](?P<part>\d+)-of-(?P<count>\d+)(?P<rest>.*)\.parquet", re.IGNORECASE)
# 0003.parquet, train-3.parquet, shard_0003.parquet.
_NUMBERED = re.compile(r"(?P<stem>(?:.*/)?(?:[^/]*?(?P<word>[^\W\d_]+)[-_. ]?)?)(?P<part>\d+)\.parquet", re.IGNORECASE)
_PART_WORDS = ("part", "parts", "shard", "shards", "chunk", "chunks", "block", "batch", "data", "file", "images")


def parquet_decides(url: str, paths: Sequence[str], tree: Folders) -> bool:
    """Whether a set is its Parquet files, and not the images in the folders next to them."""
    if not tree.below(""):
        return True
    if has_set(tree):
        return False
    near = [path for path in paths if _home(path).count("/") == 0]
    for path in sorted(near, key=lambda path: not _of_split(path, "train"))[:1]:
        with open_parquet(url, path) as parquet, contextlib.suppress(DataError):
            parquet_columns(parquet.schema_arrow, path)
            return True
    return False


def parquet_splits(paths: Sequence[str], url: str) -> dict[str, tuple[str, ...]]:
    """Return the files of each split, by their names.

    Raises:
        DataError: if none is for training, they are of several sets, or parts are missing.
    """
    below = {name: tuple(path for path in paths if _of_split(path, name)) for name in SPLIT_NAMES}
    named = next((name for name in VAL_NAMES if below[name]), None)
    train = below["train"] or _spelled(paths, "train") or (tuple(paths) if len(paths) == 1 and not named else ())
    if not train:
        raise DataError(
            f"data.path={url}: none of {len(paths)} Parquet files is named train-*, the first is {paths[0]}; "
            "rename them, or give one file"
        )
    folders = sorted(set(map(_home, train)))
    if len(folders) > 1:
        raise DataError(
            f"data.path={url}: training files lie in {len(folders)} folders, as of several sets ({folders[0] or '.'}, "
            f"{folders[1]}); give one of them"
        )
    role = split_role(_stem(train[0]))
    others = role.others if role else ()  # cifar10 of cifar10_train goes with cifar10_test, not with eval_scores
    val = below[named] if named else _spelled(paths, "val", others) or _spelled(paths, "test", others)
    files = {"train": train, "val": tuple(path for path in val if path not in train)}
    for listed in files.values():
        _refuse_gaps(url, listed)
    return files


def _home(path: str) -> str:
    """Return the folder of the set that a training file is of; below its train there may be folders of parts."""
    folders = path.split("/")[:-1]
    trains = [place for place, name in enumerate(folders) if _says(name) == "train"]
    return "/".join(folders[: trains[0]] if trains else folders)


def _of_split(path: str, name: str) -> bool:
    *folders, file = path.split("/")
    return name in folders or file.startswith((f"{name}-", f"{name}.", f"{name}_"))


def _spelled(paths: Sequence[str], split: str, others: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Return the files of a split whose names spell it in another way: ``Train.parquet``, ``cats_dev-0.parquet``."""
    roles = {path: role for path in paths if (role := split_role(_stem(path))) and role.split == split}
    roles = {path: role for path, role in roles.items() if others in (None, role.others)}
    best = min(((role.rank, role.others) for role in roles.values()), default=None)
    named = tuple(path for path, role in roles.items() if (role.rank, role.others) == best)
    return named or tuple(path for path in paths if any(_says(name) == split for name in path.split("/")[:-1]))


def _says(name: str) -> str:
    role = split_role(name)
    return role.split if role and role.rank < 2 else ""


def _stem(path: str) -> str:
    """Return a file's name without the number of its part, and what follows it."""
    file = path.rpartition("/")[2]
    part = _PART.fullmatch(file)
    return part["stem"] if part else file[: -len(".parquet")]


def _refuse_gaps(url: str, paths: Sequence[str]) -> None:
    """Raise DataError for files that are named as parts of a whole if a part is missing or occurs twice."""
    wholes: dict[tuple[str, str], dict[int, str]] = {}
    for path in paths:
        if found := _PART.fullmatch(path):
            parts = wholes.setdefault((found["stem"], found["count"]), {})
            other = parts.setdefault(int(found["part"]), path)
            if other != path:
                raise DataError(f"data.path={url}: {other} and {path} are the same part; keep one")
    for (stem, count), parts in wholes.items():
        total = next((other for name, other in wholes if name == stem and other != count), None)
        if total is not None:
            raise DataError(f"data.path={url}: {stem} is there as parts -of-{count} and -of-{total}; keep one of them")
        gaps = sorted(set(range(int(count))) - set(parts))
        if gaps:
            raise DataError(
                f"data.path={url}: {stem}-{gaps[0]:0{len(count)}d}-of-{count}.parquet {_and_more(gaps)} missing; fetch "
                f"what is missing or, to use what is there, rename the files without -of-{count}"
            )
    _refuse_skipped_numbers(url, paths)


def _refuse_skipped_numbers(url: str, paths: Sequence[str]) -> None:
    """Raise DataError for parts that are numbered from 0 or 1 without a total if a number between two is missing."""
    wholes: dict[str, set[str]] = {}
    for path in paths:
        found = _NUMBERED.fullmatch(path)
        # Numbers of a subject, a month or a class need not be consecutive.
        if found and (found["word"] is None or found["word"].lower() in _PART_WORDS or _says(found["word"])):
            wholes.setdefault(found["stem"], set()).add(found["part"])
    for stem, parts in wholes.items():
        numbers, widths = set(map(int, parts)), set(map(len, parts))
        gaps = sorted(set(range(min(numbers), max(numbers))) - numbers)
        padded = len(widths) == 1 and widths != {1}
        # 0.parquet and 7.parquet alone may have been chosen by their numbers, 0000.parquet and 0007.parquet were not.
        counted = all(part == str(int(part)) for part in parts) and len(gaps) < len(parts)
        if gaps and min(numbers) <= 1 and (padded or counted):
            first = f"{stem}{gaps[0]:0{max(widths) if padded else 1}d}.parquet"
            raise DataError(
                f"data.path={url}: {first} {_and_more(gaps)} missing; fetch what is missing or, to use what is there, "
                "number the files without a gap"
            )


def _and_more(gaps: Sequence[int]) -> str:
    return {1: "is", 2: "and one more are"}.get(len(gaps), f"and {len(gaps) - 1} more are")
