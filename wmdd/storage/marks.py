"""Which folders below a data set wmdd wrote itself: stores, run folders, exports; they hold no images of the set."""

from __future__ import annotations

import re
from collections.abc import Iterable

STORE_MARK, EXPORT_MARK = ".wmdd-store", ".wmdd-export"  # empty files in the root of each
# A folder that holds all files of a line is one that wmdd distill, compare, rank or tune wrote, or writes to.
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
    """Return the stores, run folders and exports among files, by what they hold.

    Args:
        paths: of all files below a root, hidden ones too, relative to it with ``/`` between names. The root itself is
            never returned: it was asked for.
    """
    found, names = set[str](), dict[str, set[str]]()
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name in _NAMES:
            names.setdefault(folder, set()).add(name)
        elif name in (STORE_MARK, EXPORT_MARK):
            found.add(folder)
        elif name == "commit.json" and (artifact := _ARTIFACT.fullmatch(path)):
            # Of a store in the root itself, the folders of its stages.
            found |= {artifact[1]} if artifact[1] else {path.partition("/")[0], "notes"}
    found |= {folder for folder, held in names.items() if any(run <= held for run in _RUNS)}
    return found - {""}
