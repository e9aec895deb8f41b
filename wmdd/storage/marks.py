"""Which folders below a data set wmdd wrote: stores, run folders and exports, which hold no images of the set."""

from __future__ import annotations

import re
from collections.abc import Iterable

STORE_MARK, EXPORT_MARK = ".wmdd-store", ".wmdd-export"  # empty files in the root of each
# A folder with all files of a line was written by wmdd distill, compare, rank or tune.
_RUNS = (
    {"config.yaml", "run.json"},
    {"config.yaml", "metrics.jsonl"},
    {"config.yaml", "manifest.json"},
    {"config.yaml", "compare.json"},
    {"ranking.json", "ranking.md"},
    {"config.yaml", "tune.json"},
)
_NAMES = frozenset[str]().union(*_RUNS)
_ARTIFACT = re.compile(
    r"(.*?)/?(?:index|pretrain|statistics|barycenter|recover|select|relabel|evaluate)/[0-9a-f]{32}/commit\.json"
)


def own_folders(paths: Iterable[str]) -> set[str]:
    """Return the stores, run folders and exports among files.

    Args:
        paths: of all files below a root, hidden ones too, relative to it with ``/`` between names. The root itself is
            never returned, as it was asked for.
    """
    folders = set[str]()
    names = dict[str, set[str]]()
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name in _NAMES:
            names.setdefault(folder, set()).add(name)
        elif name in (STORE_MARK, EXPORT_MARK):
            folders.add(folder)
        elif name == "commit.json" and (artifact := _ARTIFACT.fullmatch(path)):
            # If the root itself is a store, the folders of its stages.
            folders |= {artifact[1]} if artifact[1] else {path.partition("/")[0], "notes"}
    folders |= {folder for folder, held in names.items() if any(run <= held for run in _RUNS)}
    return folders - {""}
