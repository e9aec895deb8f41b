"""Real images: found, indexed, read, and shown in batches and views."""

from typing import Any

from wmdd.process.exports import public

PUBLIC = {
    "batches": ("TrainingBatches", "class_images", "validation_batches"),
    "geometry": ("Geometry",),
    "images": ("StreamedImages",),
    "index": ("DatasetIndex", "Split"),
    "scan": ("build_index",),
    "views": ("Views", "apply_views", "view_matrices"),
}


def __getattr__(name: str) -> Any:
    """Return a public name."""
    return public(__name__, PUBLIC, name)
