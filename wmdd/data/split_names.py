"""What the names of folders and files say: which split they are for, and which names mean one class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

VAL_NAMES = ("val", "validation", "valid", "test")
SPLIT_NAMES = ("train", *VAL_NAMES)
_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "validation", "valid", "validate", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("holdout", "heldout"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# With one of these, the name still means the split: train_images, TestSet, val2017.
_FILLER_WORDS = (
    "set sets data dataset split splits image images img imgs pic pics picture pictures photo photos file files "
    "sample samples folder dir jpg jpeg jpegs png crops cropped class classes of"
)
_FILLERS = frozenset(_FILLER_WORDS.split())
# Of masks, with fillers: SegmentationClass, ground_truth, train_masks.
_MASK_WORDS = "mask masks segmentation segmentations seg gt groundtruth truth trimaps annotations labels"
_MASKS = frozenset(_MASK_WORDS.split())
_OF_MASKS = _MASKS | frozenset(("ground", "object", "instance", "semantic"))
# As names of classes these are too common to be taken for splits (valid and invalid, control and test).
_SURE_SPLITS = frozenset({"val", "validation", "test", "testing"})


class Role(NamedTuple):
    """What a name says about a split: ``train``, ``val`` or ``test``.

    Args:
        rank: 0 for the names that every tool uses, 1 for another spelling, 2 with words of another meaning.
        others: these words.
    """

    split: str
    rank: int
    others: tuple[str, ...]


def split_role(name: str) -> Role | None:
    """Return which split a folder or file is named for, if it is."""
    if name in SPLIT_NAMES:
        return Role("test" if name == "test" else "train" if name == "train" else "val", 0, ())
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = [plain_word(word) for word in re.findall(r"[^\W\d_]+", spaced.casefold())]
    splits = {_WORDS[word] for word in words if word in _WORDS}
    if len(splits) != 1:
        return None
    others = tuple(word for word in words if word not in _WORDS and word not in _FILLERS)
    return Role(splits.pop(), 2 if others else 1, others)


def plain_word(word: str) -> str:
    """Cut a filler off a word: ``trainset`` is ``train``."""
    return next((known for known in _WORDS if word.startswith(known) and word[len(known) :] in _FILLERS), word)


def same_name(name: str) -> str:
    """Return a form of a class name that is equal for its spellings in other cases and Unicode forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())


def is_sure(name: str) -> bool:
    """Whether a name is one of a split, and hardly one of a class."""
    return any(plain_word(word) in _SURE_SPLITS for word in re.findall(r"[^\W\d_]+", name.casefold()))


def is_generic(name: str) -> bool:
    """Whether a folder's name says nothing about the class of its images."""
    return name.lower() in {*_FILLERS, "imagefolder"} or split_role(name) is not None


def is_segmentation(names: Sequence[str]) -> bool:
    """Whether the folders of a set are named for images and for masks, and for nothing else."""
    spaced = (re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name) for name in names)
    words = [set(re.findall(r"[^\W\d_]+", name.casefold())) for name in spaced]
    masks = [bool(found & _MASKS) and found <= _OF_MASKS | _FILLERS for found in words]
    return any(masks) and all(mask or found <= _FILLERS for mask, found in zip(masks, words, strict=True))


def same_form(first: str, second: str) -> bool:
    """Whether two names differ in nothing but their Unicode form."""
    return unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", second)


def difference(first: str, second: str) -> str:
    """Return how two names are spelled that `same_name` takes for one."""
    if same_form(first, second):
        return "in another Unicode form"
    if same_form(first.strip(), second.strip()):
        return "with other blanks at an end"
    return "in another case" if first.strip() == first and second.strip() == second else "otherwise"
