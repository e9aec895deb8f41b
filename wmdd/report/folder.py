"""Write the run folder: everything that a user keeps, gathered from the store. The manifest comes last."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow.parquet as pq

from wmdd.distilled import images_table
from wmdd.engine.run import load_value, versions
from wmdd.engine.run_names import portable_yaml
from wmdd.engine.task import Plan
from wmdd.method.artifacts import Barycenter, DistilledClass
from wmdd.report.costs import labels_of
from wmdd.report.inputs import inputs_of
from wmdd.report.page import report_html
from wmdd.report.pictures import MAX_ROWS, grid_png
from wmdd.report.scores import collect_metrics
from wmdd.storage.folder import Folder
from wmdd.storage.store import ArtifactStore, described
from wmdd.text import counted

IMAGES_PER_SHARD = 500
_RESULTS = (
    "teacher",
    "full_data",
    "distilled",
    "baselines",
    "gain",
    "worth",
    "protocol",
    "validation_images",
    "validation_digest",
)


def write_run(url: str, plan: Plan, store: ArtifactStore) -> dict[str, Any]:
    """Write a finished run's folder, with a hash of what it is made from for `write_once`, and return its metrics.

    Args:
        url: of the folder; files of an earlier run in it are replaced.
    """
    folder = _Recorded(url)
    metrics = collect_metrics(plan, store)
    manifest = _manifest(plan, store, metrics)
    folder.write("config.yaml", portable_yaml(plan.config).encode())
    folder.write("teacher.safetensors", store.files(plan.units("pretrain")[0].ref).read("teacher.safetensors"))
    _write_images(folder, plan, store)
    _write_labels(folder, plan, store)
    folder.write("metrics.json", json.dumps(metrics, indent=1).encode())
    folder.write("report.html", report_html(plan, store, metrics, manifest).encode())
    manifest |= {"written": {"inputs": inputs_of(plan, store), "files": folder.files}}
    folder.write("manifest.json", json.dumps(manifest, indent=1).encode())
    return metrics


class _Recorded(Folder):
    """A folder that keeps size and digest of each file that is written into it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.files: dict[str, dict[str, Any]] = {}

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        self.files[name] = described(data)


def _write_images(folder: Folder, plan: Plan, store: ArtifactStore) -> None:
    refs, names = plan.made[1], plan.index.class_names
    if not refs:
        folder.remove("images.png")
        return _drop_others(folder, "images", set())
    per_shard = max(1, IMAGES_PER_SHARD // plan.config.ipc)
    starts = range(0, len(refs), per_shard)
    files = [f"train-{number:05d}-of-{len(starts):05d}.parquet" for number in range(len(starts))]
    for file, start in zip(files, starts, strict=True):
        classes: list[DistilledClass] = [load_value(ref, store) for ref in refs[start : start + per_shard]]
        out = io.BytesIO()
        pq.write_table(images_table(classes, names), out)
        folder.write(f"images/{file}", out.getvalue())
    _drop_others(folder, "images", set(files))
    first: list[DistilledClass] = [load_value(ref, store) for ref in refs[:MAX_ROWS]]
    folder.write("images.png", grid_png([(names[item.class_id], item.images) for item in first]))


def _write_labels(folder: Folder, plan: Plan, store: ArtifactStore) -> None:
    blocks = [unit for unit in plan.units("relabel") if unit.params.images == plan.made[0]]
    if plan.until and not blocks:
        return _drop_others(folder, "labels", set())
    files = [f"part-{number:05d}.parquet" for number in range(len(blocks))]
    for file, unit in zip(files, blocks, strict=True):
        folder.write(f"labels/{file}", store.files(unit.ref).read("labels.parquet"))
    _drop_others(folder, "labels", {*files, "manifest.json"})
    manifest = {
        "schema": 1,
        "parts": len(blocks),
        "classes": list(plan.index.class_names),
        "relabel": labels_of(plan).model_dump(mode="json"),
        "image_size": plan.config.data.image_size,
        "normalization": plan.config.data.normalization,
        "tiles": plan.config.tiles if plan.refs("recover") else 1,
        "logits": "float16, before softmax; rows by (epoch, batch), image = row of images/ in file order, or its tile",
    }
    folder.write("labels/manifest.json", json.dumps(manifest, indent=1).encode())


def _drop_others(folder: Folder, name: str, kept: set[str]) -> None:
    """Remove an earlier run's files, which another number of shards would leave behind."""
    for item in folder.entries(name):
        file = item["name"].rpartition("/")[2]
        if item["type"] != "directory" and file not in kept:
            folder.remove(f"{name}/{file}")


def _manifest(plan: Plan, store: ArtifactStore, metrics: dict[str, Any]) -> dict[str, Any]:
    names = ("device", "precision", "compile", "deterministic", "threads", "reasons")
    commits = store.commits(ref for stage in plan.tasks for ref in plan.refs(stage)).values()
    # Older stores hold fewer of the names.
    machines = [
        {name: commit[name] for name in names if name in commit} for commit in commits if commit and "device" in commit
    ]
    barycenters: list[Barycenter] = [load_value(ref, store) for ref in plan.refs("barycenter")]
    notes = []
    if stopped := sum(not item.converged for item in barycenters):
        text = counted(stopped, "barycenter stopped before it", "barycenters stopped before they")
        notes.append(f"{text} converged; raise barycenter.max_iterations")
    if split := sum(bool(load_value(ref, store).notes) for ref in plan.refs("recover")):
        notes.append(f"{counted(split, 'class', 'classes')} ran in smaller tensor batches, because memory was full")
    return {
        "schema": 2,
        "config": plan.config.model_dump(mode="json"),
        "store": store.url,
        "index": plan.index_ref.key,
        "artifacts": {stage: {ref.unit: ref.key for ref in plan.refs(stage)} for stage in plan.tasks},
        "versions": versions(),
        "hardware": list({json.dumps(machine): machine for machine in machines}.values()),
        "seconds": metrics["seconds"],
        "results": {name: metrics[name] for name in _RESULTS},
        "until": plan.until,
        "notes": notes,
    }
