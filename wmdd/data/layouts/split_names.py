"""What the names of folders and files say: which split they are for, and which names mean one class."""

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


def is_paired(names: Sequence[str]) -> bool:
    """Whether the folders of a set are named for two sides of the same images, and for nothing else: HR and LR."""
    spaced = (re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold() for name in names)
    words = [set(re.findall(r"x\d|[^\W\d_]+", name)) for name in spaced]
    return len(names) > 1 and all(found & _SIDES and found <= _SIDES | _FILLERS | _OF_SIDES for found in words)


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


def matched(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Match validation classes to training classes of other case, Unicode form or blanks at the ends.

    Args:
        names: of the training classes.
        others: of the validation classes.
    """
    known: dict[str, list[str]] = {}
    for name in names:
        known.setdefault(same_name(name), []).append(name)
    unknown = sorted(set(others).difference(*known.values()))
    return {name: known[same_name(name)][0] for name in unknown if len(known.get(same_name(name), ())) == 1}


def spelling_note(spelled: Mapping[str, str]) -> str:
    """Return a line about the validation classes that were matched."""
    first, known = next(iter(spelled.items()))
    ways = {difference(name, other) for name, other in spelled.items()}
    way = ways.pop() if len(ways) == 1 else "otherwise"
    # What is not seen is shown as code.
    is_seen = difference(first, known) == "in another case"
    shown = f"{first} to {known}" if is_seen else f"{first!a} to {known!a}"
    count = "1 validation class is" if len(spelled) == 1 else f"{len(spelled)} validation classes are"
    return f"{count} spelled {way} than in training, and matched ({shown})"


def is_unlabelled(name: str) -> bool:
    """Whether a class is named as images without a label are."""
    return _UNLABELLED.fullmatch(name) is not None


def twice(names: Iterable[str], remedy: str) -> str:
    """Return which class name occurs in two Unicode forms or with and without blanks, if one does."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).strip(), name)
        if other != name:
            how = "in two Unicode forms" if same_form(other, name) else "with and without blanks at an end"
            return f"class {name} is there twice, {how} ({other!a}, {name!a}); {remedy}"
    return ""
