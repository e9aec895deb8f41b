"""What images and labels take: bytes, steps of a student, and seconds of work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wmdd.config.students import RelabelConfig
from wmdd.engine.progress import clock
from wmdd.engine.task import Plan
from wmdd.method.batch_sizes import batch_sizes, with_equal_steps
from wmdd.storage.store import ArtifactStore
from wmdd.text import rough_bytes

MAKING = ("statistics", "barycenter", "recover", "select")  # stages that make images
HEAD = ("pixels", "labels", "to make images", "to label", "to train students")
CAPTION = (
    "Costs: images as 8-bit pixels, labels as stored (class names not counted), and seconds of work, summed over "
    "workers; what several rows share, such as statistics, counts in each, the teacher in none; random images differ "
    "by student, and have the bytes of one student's and the seconds of all"
)


def training_of(plan: Plan) -> dict[str, int]:
    """Return the epochs and steps of a student of the images that a run is for."""
    section, count = labels_of(plan), plan.config.ipc * len(plan.index.class_names)
    if planned := plan.image_sets.get(plan.made[0]):
        count = len(planned)
    return {"epochs": section.epochs, "steps": section.epochs * len(batch_sizes(section, count))}


def labels_of(plan: Plan) -> RelabelConfig:
    """Return how the images that a run is for are labelled: those with tiles in fewer epochs."""
    planned = plan.image_sets.get(plan.made[0])
    if planned is None:
        return plan.config.relabel
    return with_equal_steps(plan.config.relabel, plan.config.ipc * len(planned.refs), len(planned))


def bytes_of(plan: Plan, store: ArtifactStore) -> dict[str, int]:
    """Return the bytes of the images that a run is for, as 8-bit pixels, and of their labels, without class names.

    Labels of views are as stored. A fixed label of each image, or tile, has 16 bits for each class.
    """
    name, refs = plan.made
    pixels = plan.config.ipc * len(refs) * 3 * plan.config.data.image_size**2
    if plan.config.evaluate.labels == "fixed":
        planned = plan.image_sets.get(name, ())
        return {"images": pixels, "labels": len(planned) * 2 * len(plan.index.class_names)}
    blocks = store.commits(unit.ref for unit in plan.units("relabel") if unit.params.images == name).values()
    labels = sum(int(file["size"]) for commit in blocks if commit for file in commit["files"].values())
    return {"images": pixels, "labels": labels}


def cost_cells(sizes: Mapping[str, int], seconds: Mapping[str, float]) -> list[str]:
    """Return bytes of images and labels, and seconds of work on images, labels and students, as text under `HEAD`."""
    spent = (
        sum(seconds.get(stage, 0.0) for stage in MAKING),
        seconds.get("relabel", 0.0),
        seconds.get("evaluate", 0.0),
    )
    return [*(rough_bytes(sizes[part]) for part in ("images", "labels")), *map(clock, spent)]


def cost_line(metrics: Mapping[str, Any]) -> str:
    """Return what a run's images and labels take, and its seconds of work; empty if it ended before images."""
    if "images" in metrics["missing"]:
        return ""
    pixels, labels = (rough_bytes(metrics["bytes"][part]) for part in ("images", "labels"))
    without = ", labels not made" if "labels" in metrics["missing"] else f", labels {labels}"
    return f"images {pixels} as pixels{without}; {clock(sum(metrics['seconds'].values()))} of work, summed over workers"
