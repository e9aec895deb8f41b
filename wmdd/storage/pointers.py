"""Pointer files: small text in place of a large file, left by tools that keep the content elsewhere."""

from __future__ import annotations

import os
import re

_BEGINNINGS = (
    (b"version https://git-lfs", "is a pointer of Git LFS", "run git lfs pull"),
    (b"version https://hawser", "is a pointer of Git LFS", "run git lfs pull"),
    (b"/annex/objects/", "is a pointer of git-annex", "run git annex get"),
    (b"# xet version", "is a pointer of Xet", "download it again with hf download"),
    (b"\0GITCRYPT\0", "is encrypted by git-crypt", "run git-crypt unlock"),
)
_DVC = re.compile(rb"(\w+:[^\n]*\n)*outs:\r?\n\s*- ")


def pointer(data: bytes) -> tuple[str, str] | None:
    """Return what a pointer file is, by its first bytes, and the remedy; None for other files."""
    for beginning, what, remedy in _BEGINNINGS:
        if data.startswith(beginning):
            return what, remedy
    head = data[:4096]
    if b".git/annex/objects/" in head[:300]:
        return "is a link of git-annex as text", "run git annex get"
    return ("is a pointer of DVC", "run dvc pull") if _DVC.match(head) else None


def broken_link(path: str) -> tuple[str, str] | None:
    """Return what a link to an absent file is, and the remedy; None for any other path of this machine."""
    if not os.path.islink(path) or os.path.exists(path):
        return None
    target = os.readlink(path)
    if ".git/annex/objects/" in target:
        return "is a link of git-annex whose content is not here", "run git annex get"
    return f"is a link to {target}, which does not exist", "restore that, or remove the link"
