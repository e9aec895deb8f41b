"""How a folder of images is laid out: which folders are its splits and which are its classes, from names alone.

`LAYOUTS` lists the layouts in the order in which they are tried; a new one is a function there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from posixpath import join

from wmdd.data.layouts.class_doubts import class_doubts, deep_notes, no_classes
from wmdd.data.layouts.folder_tree import Folders, some, steps
from wmdd.data.layouts.split_names import (
    SPLIT_NAMES,
    VAL_NAMES,
    Role,
    is_generic,
    matched,
    same_name,
    spelling_note,
    split_role,
    twice,
)
from wmdd.errors import DataError
from wmdd.text import and_more

# cat.0.jpg, but none of the names that cameras and programs give to images of all kinds.
_CLASS_IN_NAME = re.compile(r"(?!(?i:dsc[fn]?|imag|frame|scan|screenshot)[^a-z])([^\W\d_]{3,})[-._ ]*\(?\d+\)?\.\w+")


@dataclass(frozen=True)
class Layout:
    """What each folder of images is."""

    places: Mapping[str, tuple[str, str]]  # split (train or val) and class of each folder that holds images of the set
    root: str | None  # the folder that holds the training classes; None if each class holds its splits
    notes: tuple[str, ...] = ()  # about what was read in an unusual way, or not read
    doubt: str = ""  # why the classes may be none: the set is refused for it unless the user names the classes


def recognise(tree: Folders, url: str) -> Layout:
    """Return the splits and classes of a set.

    Raises:
        DataError: if it has none, images lie outside them, or the folders may be read in two ways.
    """
    base = ""
    while not _trains(tree, base) and (inner := _inner(tree, base)) is not None:
        base = inner
    layouts = (layout(tree, base, url) for layout in LAYOUTS)
    return next(layout for layout in layouts if layout is not None)


def splits_of_classes(tree: Folders, base: str, url: str) -> Layout | None:
    """Read ``train/CLASS`` and ``val/CLASS``, however the splits are called."""
    trains = _trains(tree, base)
    if not trains:
        return None
    _refuse_twins(tree, base, trains, "training", url)
    train = _unwrapped(tree, join(base, trains[0]))
    classes = set(map(same_name, tree.below(train)))
    val = _validation(tree, base, classes)
    _refuse_twins(tree, base, [val] if val else [], "validation", url)
    roots = {"train": train} | ({} if val is None else {"val": _unwrapped(tree, join(base, val), classes)})
    notes = _split_notes(tree, base, trains[0], val, roots)
    _refuse_loose(tree, [train], url)
    _refuse_unsorted(tree, roots.get("val"), url)
    places = _places(tree, train, "train") | (_places(tree, roots["val"], "val") if val else {})
    names = sorted({name for split, name in places.values() if split == "train"})
    if len(names) == 1 and is_generic(names[0]):
        _refuse_loose(tree, [join(train, names[0])], url)
    spelled = matched(names, {name for split, name in places.values() if split == "val"})
    if spelled:
        places = {folder: (split, spelled.get(name, name)) for folder, (split, name) in places.items()}
        notes.append(spelling_note(spelled))
    bare = [name for name in names if not tree.count(join(train, name))]
    doubt = twice(names, "merge the folders") or no_classes(names, bare)
    return Layout(places, train, (*notes, *deep_notes(tree, train)), doubt)


def classes_of_splits(tree: Folders, base: str, url: str) -> Layout | None:
    """Read ``CLASS/train`` and ``CLASS/val``."""
    names, places = tree.below(base), dict[str, tuple[str, str]]()
    for name in names:
        place = join(base, name)
        roles = _roles(tree, place)
        if tree.count(place) or len(roles) < len(tree.below(place)) or len(names) < 2:
            return None
        trains = [split for split, role in roles.items() if role.split == "train"]
        vals = sorted((role.split == "test", role.rank, split) for split, role in roles.items() if split not in trains)
        if len(trains) != 1 or any(tree.below(join(place, split)) for split in roles):
            return None
        places[join(place, trains[0])] = "train", name
        places |= {join(place, vals[0][2]): ("val", name)} if vals else {}
    if not places:
        return None
    return Layout(places, None, (f"each class holds its own splits ({next(iter(places))}), and is read so",))


def classes_alone(tree: Folders, base: str, url: str) -> Layout:
    """Read ``CLASS``; validation images are held out of the training images."""
    names = tree.below(base)
    if not names:
        raise DataError(f"data.path={url}: holds no images; expected train/CLASS/*.jpg, CLASS/*.jpg or train-*.parquet")
    _refuse_sets(tree, base, url)
    _refuse_loose(tree, [base, *(above for above, _ in steps(base))][::-1], url)
    roles = _roles(tree, base)
    alone = len(names) == 1 and (is_generic(names[0]) if names[0] not in roles else roles[names[0]].rank < 2)
    if alone or (len(roles) == len(names) > 1):
        first = sorted(names, key=lambda name: name not in roles or roles[name].split != "train")
        _refuse_loose(tree, [join(base, name) for name in first], url)
    doubt, notes = class_doubts(tree, base, roles)
    notes = ([f"{base} is read as the set"] if base else []) + notes
    return Layout(_places(tree, base, "train"), base, tuple(notes), doubt or twice(names, "merge the folders"))


# Tried in this order: each takes the folders, the one that holds the whole set and the set's URL, and returns None if
# the set has another layout.
LAYOUTS: tuple[Callable[[Folders, str, str], Layout | None], ...] = (
    splits_of_classes,
    classes_of_splits,
    classes_alone,
)


def _places(tree: Folders, root: str, split: str) -> dict[str, tuple[str, str]]:
    """Return the split and class of each folder of images below the folder that holds the classes."""
    start = f"{root}/" if root else ""
    inner = [folder for folder in tree.images if folder.startswith(start) and folder != root]
    return {folder: (split, folder[len(start) :].partition("/")[0]) for folder in inner}


def _roles(tree: Folders, base: str) -> dict[str, Role]:
    """Return the folders that are named for a split; an odd name counts if its counterpart is there."""
    roles = {name: role for name in tree.below(base) if (role := split_role(name))}
    pairs = [(role.split, role.others) for role in roles.values()]
    return {
        name: role
        for name, role in roles.items()
        if role.rank < 2 or any(others == role.others and split != role.split for split, others in pairs)
    }


def _trains(tree: Folders, base: str) -> list[str]:
    """Return the training split in a folder; several names if these are equally plausible."""
    roles = _roles(tree, base)
    trains = [name for name, role in roles.items() if role.split == "train" and tree.below(join(base, name))]
    best = min((roles[name].rank for name in trains), default=0)
    return [name for name in trains if roles[name].rank == best]


def _split_notes(tree: Folders, base: str, train: str, val: str | None, roots: Mapping[str, str]) -> list[str]:
    notes = []
    if roots["train"] != "train" or roots.get("val") not in (None, *VAL_NAMES):
        read = f"{roots['train']} is read as the training split"
        notes.append(read + (f", {roots['val']} as the validation split" if val else ""))
    unused = [name for name in tree.below(base) if name not in (train, val)]
    classes = set(map(same_name, tree.below(roots["train"])))
    alike = [name for name in unused if _has_classes(tree, join(base, name), classes)]
    if val:
        notes += [f"left out: {some(unused)} (the splits are {train} and {val})"] if unused else []
        return notes
    trains = [name for name in alike if (role := split_role(name)) and role.split == "train"]
    others = [name for name in alike if name not in trains]
    for names, why in (
        ([name for name in unused if name not in alike], f"the only split with these classes is {train}"),
        (others, f"{train} is the training split; to validate on another folder, call it val"),
        (trains, f"{train} is the training split; to train on more, move it there"),
    ):
        notes += [f"left out: {some(names)} ({why})"] if names else []
    return notes


def _has_classes(tree: Folders, folder: str, classes: set[str]) -> bool:
    return bool(classes & set(map(same_name, tree.below(_unwrapped(tree, folder, classes)))))


def _validation(tree: Folders, base: str, classes: set[str]) -> str | None:
    """Return the folder of the validation images, if there is one."""
    roles = _roles(tree, base)
    known = [name for name in roles if _has_classes(tree, join(base, name), classes)]
    for name in VAL_NAMES:
        # A test folder without classes is the usual unlabelled one; a val folder without classes is a mistake.
        if name in roles and (name != "test" or name in known):
            return name
    others = [name for name, role in roles.items() if role.split != "train" and role.rank and name in known]
    return min(others, key=lambda name: (roles[name].split == "test", roles[name].rank, name), default=None)


def _unwrapped(tree: Folders, folder: str, classes: set[str] | None = None) -> str:
    """Return the folder that holds the classes, below folders with a single folder in them, as archives have."""
    while not tree.count(folder) and len(names := tree.below(folder)) == 1:
        inner = join(folder, names[0])
        if tree.count(inner) or not tree.below(inner) or (classes is not None and same_name(names[0]) in classes):
            break
        if len(tree.below(inner)) == 1 and classes is None and _unwrapped(tree, inner) == inner:
            break
        folder = inner
    return folder


def _inner(tree: Folders, base: str) -> str | None:
    """Return the folder that holds the whole set, if this one only wraps it."""
    names = tree.below(base)
    named = _roles(tree, base)
    if len(names) > 1:
        sets = [name for name in names if name not in named and has_set(tree, join(base, name))]
        return join(base, sets[0]) if len(sets) == 1 and len(named) == len(names) - 1 else None
    inner = join(base, names[0]) if names and names[0] not in named else None
    if inner is None or tree.count(inner):
        return None
    return inner if len(tree.below(inner)) > 1 or has_set(tree, inner) else _inner(tree, inner)


def has_set(tree: Folders, folder: str = "") -> bool:
    """Whether a folder holds ``train/CLASS``, directly or in a single folder, however the training folder is called."""
    if _trains(tree, folder):
        return True
    names = tree.below(folder)
    return len(names) == 1 and not tree.count(folder) and has_set(tree, join(folder, names[0]))


def _refuse_twins(tree: Folders, base: str, names: list[str], what: str, url: str) -> None:
    """Raise DataError for two folders of one split, such as ``Train`` and ``train``, either of which may be meant."""
    same = {same_name(name) for name in names}
    others = [name for name in tree.below(base) if name not in names and same_name(name) in same]
    if len(twins := names + others) > 1:
        # Names that look alike are shown as code.
        first, second = (name if name.isascii() and name == name.strip() else f"{name!a}" for name in twins[:2])
        raise DataError(
            f"data.path={url}: {first} and {second} both look like the {what} split; keep one, or merge them"
        )


def _refuse_unsorted(tree: Folders, val: str | None, url: str) -> None:
    """Raise DataError for validation images that lie in no class folder."""
    if val is None or val not in tree.images:
        return
    if tree.below(val):
        _refuse_loose(tree, [val], url)
    first, count = tree.images[val]
    lists = ", or put LOC_val_solution.csv of ImageNet next to train" if "ILSVRC2012_val_" in first else ""
    raise DataError(
        f"data.path={url}: {first}{and_more(count - 1)} lies in no class folder; sort "
        f"these into {val}/CLASS{lists}; or move {val} away, and data.val_fraction of the training images is held out"
    )


def _refuse_sets(tree: Folders, base: str, url: str) -> None:
    """Raise DataError for validation images without training images, and for folders that hold sets."""
    roles = _roles(tree, base)
    stray = [name for name, role in roles.items() if role.split != "train" and tree.below(join(base, name))]
    for name in sorted(stray, key=lambda name: roles[name].rank):
        if roles[name].rank == 0 or roles[name].split == "test" or len(stray) == len(tree.below(base)):
            raise DataError(
                f"data.path={url}: has {join(base, name)}/CLASS folders but no images in train/CLASS; add the train "
                "folder"
            )
    for name in tree.below(base):
        place = join(base, name)
        inner = any(inner in SPLIT_NAMES and tree.below(join(place, inner)) for inner in tree.below(place))
        if inner or all(has_set(tree, join(base, other)) for other in tree.below(base)):
            where = f"{url.rstrip('/')}/{place}"
            raise DataError(f"data.path={url}: {name} is a set, and no class; give {where}")


def _refuse_loose(tree: Folders, folders: Iterable[str], url: str) -> None:
    loose = [tree.images[folder] for folder in folders if folder in tree.images]
    if loose:
        more = and_more(sum(number for _, number in loose) - 1)
        first = loose[0][0]
        place, _, file = first.rpartition("/")
        word = _CLASS_IN_NAME.fullmatch(file)
        such = f", such as {join(place, word[1])}," if word and not is_generic(word[1]) else ""
        raise DataError(f"data.path={url}: {first}{more} lies in no class folder; move it into one{such} or away")
