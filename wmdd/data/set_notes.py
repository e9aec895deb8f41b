"""Notes for the user about an indexed set: its classes, images that occur twice, and unusual pixels."""

from __future__ import annotations

import numpy as np

from wmdd.data.index import LEVELS, DatasetIndex
from wmdd.data.layouts.split_names import difference, is_unlabelled, same_name

_FIRST_CLASSES = 5
_NOTED = 0.001  # of the images; published sets have a few doubles
_NOTED_ALPHA = 0.01  # of photographs, a few are PNG with alpha
_FAINT, _FAINT_8_BITS = 1 / 4, 1 / 16  # of the grey levels: 14 of 16 bits, and 4 of 8


def index_notes(index: DatasetIndex) -> tuple[str, ...]:
    """Return all lines about an index."""
    return (*class_notes(index), *double_notes(index), *_orientation_notes(index), *pixel_notes(index))


def double_notes(index: DatasetIndex) -> tuple[str, ...]:
    """Return lines about images that are in both splits, or in the training split twice, by their bytes."""
    notes = []
    train, val = index.train.digest, index.val.digest
    shared = int(np.isin(val, train).sum())
    if not index.val_held_out and shared and shared >= _NOTED * len(val):
        what = "is a training image" if shared == 1 else "are training images"
        notes.append(f"{shared:,} of {len(val):,} validation images {what} too: accuracy on them says little")
    order = np.lexsort([index.train.label, train])
    repeats = train[order][1:] == train[order][:-1]
    if repeats.any() and repeats.sum() >= _NOTED * len(train):
        mixed = int((repeats & (index.train.label[order][1:] != index.train.label[order][:-1])).sum())
        other = f", {mixed:,} of them in another class" if mixed else ""
        what = "is a copy" if repeats.sum() == 1 else "are copies"
        notes.append(f"{repeats.sum():,} of {len(train):,} training images {what} of another one{other}")
    return tuple(notes)


def _orientation_notes(index: DatasetIndex) -> tuple[str, ...]:
    """Return a line about images that are read as they are stored, and not as their EXIF orientation asks for."""
    turned = sum(int((split.orientation != 1).sum()) for split in (index.train, index.val))
    if index.upright or not turned:
        return ()
    return (
        f"{turned} of {len(index.train) + len(index.val)} images {'carries' if turned == 1 else 'carry'} an EXIF "
        "orientation, which is ignored, as torchvision does; --data.exif_orientation apply turns them upright",
    )


def pixel_notes(index: DatasetIndex) -> tuple[str, ...]:
    """Return lines about images that use few grey levels, have several frames, or have alpha."""
    low, high, white, several, alpha = (
        np.concatenate([getattr(split, name) for split in (index.train, index.val)]) for name in LEVELS
    )
    notes = []
    if index.bits is not None and not (white == 2**index.bits - 1).any():
        notes.append(f"data.bits={index.bits} changes no image, as none is grey with more than 8 bits; leave it out")
    for top in np.unique(white[white > 0]).tolist():
        alike = white == top
        faint = alike & (high < top * _FAINT_8_BITS if top == 255 else high - low < top * _FAINT)
        # A few dark images are no fault; small ones say nothing of large ones, which were not decoded.
        if 2 * faint.sum() >= (len(white) if top == 255 else alike.sum()):
            counts = f"{faint.sum():,} of {alike.sum():,}"
            notes.append(f"{counts} {_faint(float(low[faint].min()), float(high[faint].max()), top)}")
    if several.any():
        what = "has several frames or pages" if several.sum() == 1 else "have several frames or pages each"
        notes.append(f"{int(several.sum()):,} of {len(several):,} images {what}, of which the first is read")
    if alpha.any() and alpha.sum() >= _NOTED_ALPHA * len(alpha):
        what = "has an alpha channel" if alpha.sum() == 1 else "have alpha channels"
        hidden = "where they are transparent, the colour behind shows, often black"
        notes.append(f"{int(alpha.sum()):,} of {len(alpha):,} images {what}, dropped as torchvision does: {hidden}")
    return tuple(notes)


def _faint(low: float, high: float, white: int) -> str:
    remedy = "stretch the values of all files alike to the whole range"
    if white == 255:
        return f"images are decoded to values from {low:.3g} to {high:.3g} of 255 only; {remedy}"
    if white > 255 and low < high / 2:
        remedy = f"--data.bits {int(high).bit_length()} makes {2 ** int(high).bit_length() - 1} white"
    kind = "floats" if white == 1 else f"{white.bit_length()} bits"
    span = " to ".join(f"{value:.3g}" if white == 1 else f"{value:.0f}" for value in (low, high))
    levels = round(255 * (high - low) / white)
    return f"images of {kind} hold values from {span} only, {levels} of 255 grey levels once decoded; {remedy}"


def class_notes(index: DatasetIndex) -> tuple[str, ...]:
    """Return lines about classes whose names suggest that they are one class, or none."""
    notes, seen = [], dict[str, str]()
    pairs = [
        (other, name)
        for name in index.class_names
        if (other := seen.setdefault(same_name(name), name)) != name and len(name) > 1  # letters may be classes
    ]
    if pairs:
        first, second = pairs[0]
        more = f" (and {len(pairs) - 1} more such)" if len(pairs) > 1 else ""
        way = difference(first, second)
        shown = f"{first} and {second}" if way == "in another case" else f"{first!a} and {second!a}"
        notes.append(
            f"classes {shown} are one name {way}{more}, and are read as two classes; merge them if they are one"
        )
    unlabelled = [name for name in index.class_names if is_unlabelled(name)]
    if unlabelled:
        notes.append(f"{unlabelled[0]} is read as a class; move it away if its images are of no class")
    return tuple(notes)


def describe_classes(index: DatasetIndex) -> str:
    """Return the first and the last class names with their numbers of training and validation images."""
    count = len(index.class_names)
    train, val = (np.bincount(split.label, minlength=count) for split in (index.train, index.val))
    shown = [f"{name} ({train[place]}, {val[place]})" for place, name in enumerate(index.class_names)]
    if count > _FIRST_CLASSES + 1:
        shown = [*shown[:_FIRST_CLASSES], "...", shown[-1]]
    return f"classes (training, validation images): {', '.join(shown)}"
