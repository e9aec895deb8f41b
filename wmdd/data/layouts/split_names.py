"""What the names of folders and files mean: a split, a class, masks, or one class in two spellings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
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
# Of restored and translated images: HR and LR_x4, input and target.
_SIDES = frozenset(("hr", "lr", "hq", "lq", "gt", "input", "inputs", "output", "outputs", "target", "targets"))
_OF_SIDES = frozenset(("bicubic", "x2", "x3", "x4", "x8"))
_UNLABELLED = re.compile(r"un(?:labell?ed|annotated|sorted|classified|categori[sz]ed)(?:[-_ ]\w+)?", re.IGNORECASE)
# As names of classes these are too common to be taken for splits (valid and invalid, control and test).
_SURE_SPLITS = frozenset({"val", "validation", "test", "testing"})


class Role(NamedTuple):
    """What a name says about a split."""

    split: str  # train, val or test
    rank: int  # 0 for the names that every tool uses, 1 for another spelling, 2 with words of another meaning
    others: tuple[str, ...]  # these words


def split_role(name: str) -> Role | None:
    """Return which split a folder or file is named for, if it is."""
    if name in SPLIT_NAMES:
        return Role("test" if name == "test" else "train" if name == "train" else "val", 0, ())
    words = [plain_word(word) for word in _words(unicodedata.normalize("NFKC", name))]
    splits = {_WORDS[word] for word in words if word in _WORDS}
    if len(splits) != 1:
        return None
    others = tuple(word for word in words if word not in _WORDS and word not in _FILLERS)
    return Role(splits.pop(), 2 if others else 1, others)


def _words(name: str) -> list[str]:
    """Return the words of a name in small letters: SegmentationClass and ground_truth have two each."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())


def plain_word(word: str) -> str:
    """Return a word without a filler at its end: ``trainset`` is ``train``."""
    return next((known for known in _WORDS if word.startswith(known) and word[len(known) :] in _FILLERS), word)


def same_name(name: str) -> str:
    """Return a form of a class name that is equal for its spellings in other cases and Unicode forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())


def is_sure(name: str) -> bool:
    """Whether a name is one of a split, and hardly one of a class."""
    return any(plain_word(word) in _SURE_SPLITS for word in _words(name.casefold()))


def is_generic(name: str) -> bool:
    """Whether a folder's name says nothing about the class of its images."""
    return name.lower() in {*_FILLERS, "imagefolder"} or split_role(name) is not None


def is_segmentation(names: Sequence[str]) -> bool:
    """Whether the folders of a set are named for images and for masks, and for nothing else."""
    spaced = (re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])", " ", name) for name in names)  # JPEGImages
    words = [set(_words(name)) for name in spaced]
    are_masks = [bool(some & _MASKS) and some <= _OF_MASKS | _FILLERS for some in words]
    return any(are_masks) and all(is_mask or some <= _FILLERS for is_mask, some in zip(are_masks, words, strict=True))


def is_paired(names: Sequence[str]) -> bool:
    """Whether the folders of a set are named for two sides of the same images, and for nothing else: HR and LR."""
    spaced = (re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold() for name in names)
    words = [set(re.findall(r"x\d|[^\W\d_]+", name)) for name in spaced]
    return len(names) > 1 and all(some & _SIDES and some <= _SIDES | _FILLERS | _OF_SIDES for some in words)


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


def matched(train: Iterable[str], val: Iterable[str]) -> dict[str, str]:
    """Return the training class for each validation class of another case, Unicode form or blanks at the ends."""
    known: dict[str, list[str]] = {}
    for name in train:
        known.setdefault(same_name(name), []).append(name)
    unknown = sorted(set(val).difference(*known.values()))
    return {name: known[same_name(name)][0] for name in unknown if len(known.get(same_name(name), ())) == 1}


def spelling_note(spelled: Mapping[str, str]) -> str:
    """Return a line about the validation classes that were matched."""
    first, known = next(iter(spelled.items()))
    ways = {difference(name, other) for name, other in spelled.items()}
    way = ways.pop() if len(ways) == 1 else "otherwise"
    # Names that look alike are shown as code.
    is_visible = difference(first, known) == "in another case"
    shown = f"{first} to {known}" if is_visible else f"{first!a} to {known!a}"
    count = "1 validation class is" if len(spelled) == 1 else f"{len(spelled)} validation classes are"
    return f"{count} spelled {way} than in training, and matched ({shown})"


def is_unlabelled(name: str) -> bool:
    """Whether a class is named as images without a label are."""
    return _UNLABELLED.fullmatch(name) is not None


def twice(names: Iterable[str], remedy: str) -> str:
    """Return what is wrong with a class whose name occurs in two Unicode forms, or with and without blanks, if any."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).strip(), name)
        if other != name:
            how = "in two Unicode forms" if same_form(other, name) else "with and without blanks at an end"
            return f"class {name} is there twice, {how} ({other!a}, {name!a}); {remedy}"
    return ""
