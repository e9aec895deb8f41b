"""What a user should see of an indexed set before it is used: its classes, and images that occur twice."""

from __future__ import annotations

import numpy as np

from wmdd.data.index import DatasetIndex

_FIRST_CLASSES = 5
_NOTED = 0.001  # of the images; published sets have a few doubles


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


def describe_classes(index: DatasetIndex) -> str:
    """Return the first and the last class names with their numbers of training and validation images."""
    count = len(index.class_names)
    train, val = (np.bincount(split.label, minlength=count) for split in (index.train, index.val))
    shown = [f"{name} ({train[place]}, {val[place]})" for place, name in enumerate(index.class_names)]
    if count > _FIRST_CLASSES + 1:
        shown = [*shown[:_FIRST_CLASSES], "...", shown[-1]]
    return f"classes (training, validation images): {', '.join(shown)}"
