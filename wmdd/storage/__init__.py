"""Folders and files at any URL, and the artifact store that is keyed by content."""

from typing import Any

from wmdd.process.exports import public

PUBLIC = {
    "artifact": ("Artifact", "Files"),
    "filesystem": ("open_fs",),
    "folder": ("Folder", "absolute_url"),
    "store": ("ArtifactRef", "ArtifactStore"),
}


def __getattr__(name: str) -> Any:
    """Return a public name."""
    return public(__name__, PUBLIC, name)
