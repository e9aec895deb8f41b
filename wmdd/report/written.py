"""Whether a run folder holds what a finished run writes: a second run then writes nothing and imports no torch."""

from __future__ import annotations

import json
import posixpath
from typing import Any

from wmdd.engine.task import Plan
from wmdd.process.loading import collector_paused
from wmdd.report.inputs import inputs_of
from wmdd.storage.folder import Folder
from wmdd.storage.store import ArtifactStore, described

FOLDERS = ("images", "labels")  # of which every file belongs to the run


def write_once(url: str, plan: Plan, store: ArtifactStore) -> dict[str, Any]:
    """Return a finished run's metrics; write its folder as `write_run` does, unless it holds these files already."""
    metrics = _written(Folder(url), inputs_of(plan, store))
    if metrics is None:
        with collector_paused():
            from wmdd.report.folder import write_run  # imports torch and matplotlib, for seconds

        metrics = write_run(url, plan, store)
    return metrics


def _written(folder: Folder, inputs: str) -> dict[str, Any] | None:
    """Return a folder's metrics if its files were made from these inputs and are whole, and None otherwise."""
    try:
        written = json.loads(folder.read("manifest.json") or b"")["written"]
        if written["inputs"] != inputs:
            return None
        files = dict(written["files"])
        listed = {
            posixpath.join(name, item["name"].rpartition("/")[2])
            for name in FOLDERS
            for item in folder.entries(name)
            if item["type"] != "directory"
        }
        if not listed <= set(files) or any(described(folder.read(name) or b"") != files[name] for name in files):
            return None
        metrics: dict[str, Any] = json.loads(folder.read("metrics.json") or b"")
    except (ValueError, KeyError, TypeError):  # of an earlier version, damaged, or not there
        return None
    return metrics
