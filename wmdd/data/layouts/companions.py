"""Images that are named as the mask or copy of another image, and would be used as images of its class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from posixpath import splitext

from wmdd.data.layouts.set_files import has_image_suffix

_WORD = (
    r"(?:masks?|seg|segm|segmentations?|segmented|labels?|labelled|gt|ground[-_ ]?truths?|annotations?|annotated"
    r"|thumbs?|thumbnails?)"
)
_MAY_BE = ("mask", "seg", "label", "gt", "truth", "annot", "thumb")
_BEHIND = re.compile(rf"(?P<stem>.+?)[-_. ]{_WORD}(?:[-_. ]?\d{{1,2}})?", re.IGNORECASE)
_BEFORE = re.compile(rf"{_WORD}[-_. ](?P<stem>.+)", re.IGNORECASE)
_FOLDER = re.compile(_WORD, re.IGNORECASE)
_IMAGE = ("", "_image", "_img", "_rgb", "_original", "_orig")  # what may follow the name they share
_NOTED = 0.1  # of the images; a few names are chance


def companion_notes(paths: Sequence[str], places: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """Return a line if many images of a set are named as masks or copies of others; only names are used.

    Args:
        places: the split and the class of each folder.
    """
    # To search one text for a few words is many times faster than to test each of a million paths.
    text = "\n".join([*paths, ""]).lower()
    masks = _masks(paths, places) if sum(map(text.count, _MAY_BE)) >= _NOTED * len(paths) else {}
    if masks and len(masks) >= _NOTED * len(paths):
        first, of = next(iter(masks.items()))
        return (
            f"{len(masks):,} of {len(paths):,} images are named as masks or thumbnails of others ({first} of {of}), "
            "and are learned as images; to leave them out, move them out of the class folders",
        )
    endings = {path[path.rfind(".") :].lower() for path in paths[:1]}
    doubles = _doubles(paths) if sum(text.count(f"{ending}\n") for ending in endings) < len(paths) else {}
    if doubles and len(doubles) >= _NOTED * len(paths):
        first, of = next(iter(doubles.items()))
        return (
            f"{len(doubles):,} of {len(paths):,} images differ from another one in nothing but their ending ({first}, "
            f"{of}): if they are its masks or copies, move them out of the class folders",
        )
    return ()


def _masks(paths: Sequence[str], places: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return which image each mask is of: ``x_mask.png`` of ``x.png``, ``masks/x.png`` of ``images/x.png``."""
    near, apart = dict[str, str](), dict[tuple[object, str], str]()
    for path in paths:
        folder, _, name = splitext(path)[0].rpartition("/")
        near[f"{folder}/{name}"] = path
        if not _is_mask(folder):
            apart[places.get(folder), name] = path  # the class, so that a class of masks is none of another class
    masks = {}
    for path in paths:
        folder, _, name = splitext(path)[0].rpartition("/")
        match = _BEHIND.fullmatch(name) or _BEFORE.fullmatch(name)
        names = [match["stem"] + end for end in _IMAGE] if match else []
        of = next((near[f"{folder}/{other}"] for other in names if f"{folder}/{other}" in near), None)
        if of is None and _is_mask(folder):
            of = next((apart[key] for other in (name, *names) if (key := (places.get(folder), other)) in apart), None)
        if of is not None:
            masks[path] = of
    return masks


def _doubles(paths: Sequence[str]) -> dict[str, str]:
    """Return which image each other one shares its name with, but for the ending."""
    first: dict[str, str] = {}
    images = filter(has_image_suffix, paths)  # what follows a point elsewhere may be a number
    return {path: other for path in images if (other := first.setdefault(splitext(path)[0], path)) != path}


def _is_mask(folder: str) -> bool:
    return _FOLDER.fullmatch(folder.rpartition("/")[2]) is not None
