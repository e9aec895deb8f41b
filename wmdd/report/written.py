"""Whether a run folder holds what a finished run writes: a second run then writes nothing and imports no torch."""

from __future__ import annotations

import json
import posixpath
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wmdd.engine.run import versions
from wmdd.engine.task import Plan
from wmdd.keys import content_key
from wmdd.storage.folder import Folder
from wmdd.storage.store import ArtifactStore, described

FOLDERS = ("images", "labels")  # of which every file belongs to the run


def write_once(url: str, plan: Plan, store: ArtifactStore) -> dict[str, Any]:
    """Return a finished run's metrics; write its folder as `write_run` does, unless it holds these files already."""
    inputs = _inputs(plan, store)
    metrics = _written(Folder(url), inputs)
    if metrics is None:
        from wmdd.report.folder import write_run  # imports torch and matplotlib, for seconds

        metrics = write_run(url, plan, store, inputs)
    return metrics


def _inputs(plan: Plan, store: ArtifactStore) -> str:
    """Return a hash of all that the files are made from; an artifact that was computed again is another one."""
    commits = store.commits(ref for stage in plan.tasks for ref in plan.refs(stage))
    parts = {"config": plan.config.model_dump(mode="json"), "index": plan.index_ref.key, "until": plan.until}
    parts |= {"store": store.url, "versions": {**versions(), "wmdd": _version()}}
    return content_key(
        parts | {"artifacts": {ref.folder: commit and commit["attempt"] for ref, commit in commits.items()}}
    )


def _version() -> str:
    try:
        return version("wmdd")
    except PackageNotFoundError:  # a checkout that is not installed
        return ""


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
