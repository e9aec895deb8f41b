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
from wmdd.data.layouts.listing import Listing
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.data.set_notes import index_notes
from wmdd.data.torchvision_sets import TORCHVISION, from_torchvision
from wmdd.errors import ConfigError, StorageError
from wmdd.keys import content_key
from wmdd.storage.folder import absolute_url
from wmdd.storage.store import ArtifactRef, ArtifactStore

# Options by which a whole index is reduced, in this order, each an artifact for itself.
_CUTS: dict[str, Callable[[DatasetIndex, Any], DatasetIndex]] = {"per_class": limit, "holdout": hold_out}


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
    data, url = config.data, _url(config, store, on_progress)
    listing = list_files(url)
    classes = _classes(config, url, listing)
    cuts = {name: value for name in _CUTS if (value := getattr(data, name))}
    refs = _refs(config, listing, classes, cuts)
    outdated = _outdated(refs[-1])
    if is_outdated := store.read_note(outdated) is not None:
        for ref in refs:
            store.withdraw(ref)
    if refs[0] not in store:
        store.check_writable()
        if config.pretrain.checkpoint is not None:
            before(len(classes or all_class_names(url, listing)) or None)
        index = build_index(
            url,
            classes=classes,
            val_fraction=data.val_fraction,
            upright=data.exif_orientation == "apply",
            bits=data.bits,
            listing=listing,
            on_progress=on_progress,
        )
        store.save(refs[0], index)
    for name, whole, part in zip(cuts, refs, refs[1:], strict=False):
        if part not in store:
            store.save(part, _CUTS[name](store.load(whole, DatasetIndex), cuts[name]))
    if is_outdated:
        store.drop_note(outdated)
    index = store.load(refs[-1], DatasetIndex, keep=True)
    return replace(index, notes=(*listing.notes, *index.notes, *index_notes(index))), refs[-1]


def _url(config: DistillConfig, store: ArtifactStore, on_progress: Callable[[int, int], None]) -> str:
    """Return the URL of a run's set; one of torchvision is written to the store first."""
    data = config.data
    if data.path is None:
        raise ConfigError(
            f"data.path: recipe {config.recipe} brings no images; give a folder or Parquet, --data.path PATH"
        )
    if not data.path.startswith(TORCHVISION):
        return absolute_url(data.path)
    upright = data.exif_orientation == "apply"
    return from_torchvision(data.path, store.folder, data.download, on_progress, upright=upright)


def _classes(config: DistillConfig, url: str, listing: Listing) -> tuple[str, ...] | None:
    """Return the classes that a run names; None for all of a set whose folders are surely classes."""
    if config.data.subset is not None:
        return subset_classes(config.data.subset, url, listing)
    if config.data.classes is None:
        listing.refuse_doubt(url)
        refuse_whole(config.recipe.removesuffix("-debug"), url, listing)
    return config.data.classes


def _refs(
    config: DistillConfig, listing: Listing, classes: tuple[str, ...] | None, cuts: dict[str, Any]
) -> list[ArtifactRef]:
    """Return the references of the whole index and of what each cut leaves."""
    data = config.data
    parts = {"listing": listing.signature, "classes": classes, "val": data.val_fraction, "version": 2}
    parts |= {"exif_orientation": "apply"} if data.exif_orientation == "apply" else {}
    parts |= {} if data.bits is None else {"bits": data.bits}
    refs = [ArtifactRef("index", "index", content_key(parts))]
    for name, value in cuts.items():
        refs.append(ArtifactRef("index", f"index-{name}", content_key({"of": refs[-1].key, name: value})))
    return refs


def mark_outdated(store: ArtifactStore, refs: Iterable[Any]) -> None:
    """Mark indexes that no longer fit their images, for the next run: sizes and times of the files do not show it."""
    for ref in {ref for ref in refs if isinstance(ref, ArtifactRef) and ref.stage == "index"}:
        with contextlib.suppress(StorageError):  # the changed image is what the user has to know
            store.write_note(_outdated(ref), b"")


def _outdated(ref: ArtifactRef) -> str:
    return f"outdated-{ref.key}"
