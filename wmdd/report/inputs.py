"""What a run folder is written from, as one hash: a folder that holds the same hash need not be written again."""

from __future__ import annotations

import functools
import importlib.resources
from importlib.metadata import PackageNotFoundError, version

from wmdd.engine.run import versions
from wmdd.engine.task import Plan
from wmdd.keys import content_digest, content_key
from wmdd.storage.store import ArtifactStore


def inputs_of(plan: Plan, store: ArtifactStore) -> str:
    """Return a hash of all that the files are made from; an artifact that was computed again is another one."""
    commits = store.commits(ref for stage in plan.tasks for ref in plan.refs(stage))
    parts = {"config": plan.config.model_dump(mode="json"), "index": plan.index_ref.key, "until": plan.until}
    parts |= {"store": store.url, "versions": {**versions(), "wmdd": _version()}, "writers": writers()}
    return content_key(
        parts | {"artifacts": {ref.folder: commit and commit["attempt"] for ref, commit in commits.items()}}
    )


@functools.cache
def writers() -> dict[str, str]:
    """Return the digest of each file of this package, code and template: a version may change its page unreleased."""
    files = (file for file in importlib.resources.files("wmdd.report").iterdir() if file.is_file())
    return {file.name: content_digest(file.read_bytes()) for file in files}


def _version() -> str:
    try:
        return version("wmdd")
    except PackageNotFoundError:  # a checkout that is not installed
        return ""
