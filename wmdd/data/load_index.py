"""The index of a run's images: made once for each store and set, and reduced to what the run uses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from wmdd.config.distill import DistillConfig
from wmdd.data.imagenet_subsets import refuse_whole, subset_classes
from wmdd.data.index import DatasetIndex, hold_out, limit
from wmdd.data.layouts.classes import all_class_names
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.data.set_notes import class_notes, double_notes, pixel_notes
from wmdd.data.torchvision_sets import TORCHVISION, from_torchvision
from wmdd.errors import ConfigError, StorageError
from wmdd.keys import content_key
from wmdd.storage.folder import absolute_url
from wmdd.storage.store import ArtifactRef, ArtifactStore

Cut = tuple[dict[str, Any], Callable[[DatasetIndex], DatasetIndex]]


def load_index(
    config: DistillConfig,
    store: ArtifactStore,
    on_progress: Callable[[int, int], None],
    before: Callable[[int | None], None] = lambda num_classes: None,
) -> tuple[DatasetIndex, ArtifactRef]:
    """Return the index of a run's set and its reference; make it if the store has none of the set's files.

    Args:
        before: called before the images are read with the number of classes (None if it is not known yet), to raise
            errors that need not wait for the index.
    """
    if config.data.path is None:
        raise ConfigError(
            f"data.path: recipe {config.recipe} brings no images; give a folder or Parquet, --data.path PATH"
        )
    path, upright = config.data.path, config.data.exif_orientation == "apply"
    url = absolute_url(path)
    if path.startswith(TORCHVISION):
        url = from_torchvision(path, store.folder, config.data.download, on_progress, upright=upright)
    listing = list_files(url)
    subset, classes = config.data.subset, config.data.classes
    if subset is None and classes is None:
        listing.refuse_doubt(url)
        refuse_whole(config.recipe.removesuffix("-debug"), url, listing)
    classes = classes if subset is None else subset_classes(subset, url, listing)
    parts = {
        "listing": listing.signature,
        "classes": classes,
        "val": config.data.val_fraction,
        "version": 2,
    } | ({"exif_orientation": "apply"} if upright else {})
    parts |= {} if config.data.bits is None else {"bits": config.data.bits}
    ref = ArtifactRef("index", "index", content_key(parts))
    cuts = _cuts(config)
    refs = [ref]
    for how, _ in cuts:
        refs.append(ArtifactRef("index", f"index-{next(iter(how))}", content_key({"of": refs[-1].key, **how})))
    outdated = _outdated(refs[-1])
    if is_outdated := store.read_note(outdated) is not None:
        for outdated_ref in refs:
            store.withdraw(outdated_ref)
    if ref not in store:
        store.check_writable()
        if config.pretrain.checkpoint is not None:
            before(len(classes or all_class_names(url, listing)) or None)
        index = build_index(
            url,
            classes=classes,
            val_fraction=config.data.val_fraction,
            upright=upright,
            bits=config.data.bits,
            listing=listing,
            on_progress=on_progress,
        )
        store.save(ref, index)
    for (_, cut), whole, part in zip(cuts, refs, refs[1:], strict=False):
        if part not in store:
            store.save(part, cut(store.load(whole, DatasetIndex)))
    if is_outdated:
        store.drop_note(outdated)
    index = store.load(refs[-1], DatasetIndex, keep=True)
    notes = (*class_notes(index), *double_notes(index), *_orientation_notes(index), *pixel_notes(index))
    return replace(index, notes=(*listing.notes, *index.notes, *notes)), refs[-1]


def mark_outdated(store: ArtifactStore, refs: Iterable[Any]) -> None:
    """Mark indexes that no longer fit their images, for the next run: sizes and times of the files do not show it."""
    for ref in {ref for ref in refs if isinstance(ref, ArtifactRef) and ref.stage == "index"}:
        with contextlib.suppress(StorageError):  # the changed image is what the user has to know
            store.write_note(_outdated(ref), b"")


def _outdated(ref: ArtifactRef) -> str:
    return f"outdated-{ref.key}"


def _cuts(config: DistillConfig) -> list[Cut]:
    """Return how the whole index is reduced: the values that enter the key, and the function, of each step."""
    share, count, cuts = config.data.holdout, config.data.per_class, list[Cut]()
    if count:
        cuts.append(({"per_class": count}, lambda index: limit(index, count)))
    if share:
        cuts.append(({"holdout": share}, lambda index: hold_out(index, share)))
    return cuts


def _orientation_notes(index: DatasetIndex) -> list[str]:
    """Return a line about images that are read as they are stored, and not as their EXIF orientation asks for."""
    turned = sum(int((split.orientation != 1).sum()) for split in (index.train, index.val))
    if index.upright or not turned:
        return []
    total = len(index.train) + len(index.val)
    what = "carries" if turned == 1 else "carry"
    return [
        f"{turned} of {total} images {what} an EXIF orientation, which is ignored, as torchvision does; "
        "--data.exif_orientation apply turns them upright"
    ]
