"""Where a command writes: opens run folders and stores, and refuses what cannot be used or would be mixed up.

What is refused raises ConfigError, which names option, URL and remedy.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from typing import Any

from wmdd.config.distill import DistillConfig
from wmdd.data.layouts.set_files import has_image_suffix, is_junk, is_junk_folder
from wmdd.errors import ConfigError
from wmdd.storage.filesystem import entries, explain, is_local, kind, open_fs
from wmdd.storage.folder import Folder, absolute_url
from wmdd.storage.marks import own_folders
from wmdd.storage.store import ArtifactStore

# Of each command, the file that its run folders are known by, and what they hold.
_RUNS = {
    "distill": ("run.json", "a run of wmdd distill"),
    "compare": ("compare.json", "a comparison of wmdd compare"),
    "rank": ("ranking.json", "a ranking of wmdd rank"),
    "tune": ("tune.json", "a search of wmdd tune"),
}


def default_store(run: str) -> str:
    """Return the store that belongs to a run folder by default: runs in one folder share what they can."""
    folder, slash, _ = run.rstrip("/").rpartition("/")
    return f"{folder}{slash}store"


def open_folder(option: str, url: str) -> Folder:
    """Open a folder, new or old, for what an option names; refuse one that cannot be reached, and a file."""
    if url.startswith(("http:", "https:")):
        raise ConfigError(f"{option} {url}: web servers cannot be written to; give a folder, s3://, gs:// or sftp://")
    if url.startswith(("zip:", "tar:", "libarchive:")):
        raise ConfigError(f"{option} {url}: archives are read only; give a folder, s3://, gs:// or sftp://")
    try:
        folder = Folder(url)
        is_file = kind(folder.fs, folder.root) == "file"
    except ConfigError as exc:
        raise ConfigError(f"{option} {exc}") from exc
    except (OSError, EOFError) as exc:
        raise ConfigError(f"{option} {url}: cannot be reached {explain(exc)}") from exc
    if is_file:
        raise ConfigError(f"{option} {url}: is a file; give a folder, new or old")
    return folder


def open_store(store: str | None, run: str) -> ArtifactStore:
    """Open the store that was asked for, or the default one of a run folder, which error messages then name."""
    option, url = ("--store", store) if store else (f"--run {run}: its store", default_store(run))
    return ArtifactStore(open_folder(option, url).url, option)


def open_run(url: str, command: str) -> Folder:
    """Open a run folder for one command; refuse one that holds another command's work, as the two would be mixed."""
    folder = open_folder("--run", url)
    for other, (file, work) in _RUNS.items():
        if other != command and folder.read(file) is not None:
            raise ConfigError(f"--run {url}: holds {work}, and would hold parts of both; give another folder")
    return folder


def refuse_in_set(config: DistillConfig, run: str, store: str | None) -> None:
    """Refuse a run folder or store that is a folder of the data set, whose images would be mixed with what is written.

    Args:
        store: URL of the store; None: the default one of the run folder.
    """
    path = config.data.path or ""
    if not path or path.startswith(("builtin:", "torchvision:")) or "::" in path:
        return
    root = _location(path)
    default = (f"--run {run}: its store {default_store(run)}", default_store(run))
    for option, url in ((f"--run {run}:", run), (f"--store {store}:", store) if store else default):
        location = _location(url)
        is_below = location[0] == root[0] and location[1].startswith(f"{root[1].rstrip('/')}/")
        if location == root or (is_below and _holds_images(url)):
            raise ConfigError(
                f"{option} is a folder of the data set ({path}); give another, such as {path.rstrip('/')}/runs/a"
            )


def _location(url: str) -> tuple[str, str]:
    """Return the scheme and the path of a URL, equal for all spellings of one location."""
    scheme, _, path = absolute_url(url).rpartition("://")
    scheme = {"": "file", "s3a": "s3", "gcs": "gs", "ssh": "sftp"}.get(scheme, scheme)
    return scheme, os.path.realpath(path) if scheme == "file" else posixpath.normpath(path)


def _holds_images(url: str) -> bool:
    """Whether images or Parquet files lie below a folder, apart from what wmdd wrote."""
    fs, root = open_fs(url)
    seen = set[str]()
    try:
        folders = [root] if kind(fs, root) not in (None, "file") else []
        while folders:
            folder = folders.pop()
            real = os.path.realpath(folder) if is_local(fs) else folder
            items = [] if real in seen else entries(fs, folder)  # a link may lead back
            seen.add(real)
            names = [item["name"].rstrip("/").rpartition("/")[2] for item in items]
            if "commit.json" in names or own_folders(f"own/{name}" for name in names):
                continue
            if any(map(_is_of_a_set, names)):
                return True
            inner = [name for item, name in zip(items, names, strict=True) if _is_folder(fs, item)]
            folders += [posixpath.join(folder, name) for name in inner if not is_junk_folder(name)]
    except (OSError, EOFError):  # reported when the folder is opened
        pass
    return False


def _is_folder(fs: Any, item: Mapping[str, Any]) -> bool:
    return item["type"] == "directory" or bool(item.get("islink") and fs.isdir(item["name"]))


def _is_of_a_set(name: str) -> bool:
    return (has_image_suffix(name) or name.lower().endswith(".parquet")) and not is_junk(name)
