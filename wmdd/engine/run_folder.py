"""Whose a run folder is: it belongs to one configuration, and one process at a time writes into it."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from wmdd.config.distill import DistillConfig, from_yaml, parse_config
from wmdd.data.layouts.set_files import has_image_suffix, is_junk, is_junk_folder
from wmdd.engine.run_names import digest, run_name, same_but
from wmdd.errors import ConfigError
from wmdd.keys import content_key
from wmdd.storage.filesystem import entries, is_local, kind, open_fs
from wmdd.storage.folder import Folder, absolute_url
from wmdd.storage.marks import own_folders

WAIT_S = 10.0  # for a run that was told to end
SIZES = frozenset({"barycenter.ipc"})  # a comparison has several
_RESULTS = ("manifest.json", "compare.json", "ranking.json")


def beside(run: str) -> str:
    """Return the store that belongs to a run folder by default: runs in one folder share what they can."""
    folder, slash, _ = run.rstrip("/").rpartition("/")
    return f"{folder}{slash}store"


def default_run(config: DistillConfig, command: str = "distill", more: Mapping[str, Any] | None = None) -> str:
    """Return the run folder that a command takes without ``--run``.

    Args:
        more: what a comparison or ranking has beside its configuration, if it is not the default.
    """
    if command in ("distill", "plan"):
        return f"runs/{run_name(config)}"
    name = run_name(config, SIZES if command == "compare" else ())
    return f"runs/{name}-{command}" + (f"-{content_key(dict(more))[:8]}" if more else "")


def refuse_in_set(config: DistillConfig, run: str, store: str | None) -> None:
    """Refuse a run folder or store that is a folder of the data set's own: what is written there would be mixed up.

    Args:
        store: URL of the store; None: the one beside the run folder.

    Raises:
        ConfigError: names the option, and what to give.
    """
    path = config.data.path or ""
    if not path or path.startswith(("builtin:", "torchvision:")) or "::" in path:
        return
    root = _place(path)
    beside_run = (f"--run {run}: its store {beside(run)}", beside(run))
    for option, url in ((f"--run {run}:", run), (f"--store {store}:", store) if store else beside_run):
        place = _place(url)
        if place == root or (_is_below(place, root) and _holds_images(url)):
            raise ConfigError(
                f"{option} is a folder of the data set ({path}); give another, such as {path.rstrip('/')}/runs/a"
            )


def _place(url: str) -> tuple[str, str]:
    """Return the kind of storage and the path of a URL, equal for the spellings of one place."""
    scheme, _, path = absolute_url(url).rpartition("://")
    scheme = {"": "file", "s3a": "s3", "gcs": "gs", "ssh": "sftp"}.get(scheme, scheme)
    return scheme, os.path.realpath(path) if scheme == "file" else posixpath.normpath(path)


def _is_below(place: tuple[str, str], root: tuple[str, str]) -> bool:
    return place[0] == root[0] and place[1].startswith(f"{root[1].rstrip('/')}/")


def _holds_images(url: str) -> bool:
    """Whether images or Parquet lie below a folder, apart from what wmdd wrote."""
    fs, root = open_fs(url)
    seen = set[str]()
    try:
        folders = [root] if kind(fs, root) not in (None, "file") else []
        while folders:
            folder = folders.pop()
            place = os.path.realpath(folder) if is_local(fs) else folder
            items = [] if place in seen else entries(fs, folder)  # a link may lead back
            seen.add(place)
            names = [item["name"].rstrip("/").rpartition("/")[2] for item in items]
            if "commit.json" in names or own_folders(f"own/{name}" for name in names):
                continue
            if any(map(_is_of_a_set, names)):
                return True
            inner = [name for item, name in zip(items, names, strict=True) if _is_folder(fs, item)]
            folders += [posixpath.join(folder, name) for name in inner if not is_junk_folder(name)]
    except (OSError, EOFError):  # told when the folder is opened
        pass
    return False


def _is_folder(fs: Any, item: Mapping[str, Any]) -> bool:
    return item["type"] == "directory" or bool(item.get("islink") and fs.isdir(item["name"]))


def _is_of_a_set(name: str) -> bool:
    return (has_image_suffix(name) or name.lower().endswith(".parquet")) and not is_junk(name)


def choose_run(
    run: str | None,
    config: DistillConfig,
    command: str = "distill",
    *,
    cases: Mapping[str, DistillConfig] | None = None,
    more: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Return where a run goes, and a note if its default folder is another configuration's.

    Args:
        run: the folder that was asked for; None: the default one.
        cases: a comparison's runs, by their folders below its own.
        more: as for `default_run`.

    Raises:
        ConfigError: if `run` holds results of another configuration.
    """
    url = (run or default_run(config, command, more)).rstrip("/")
    other = _other(url, config, cases)
    if not other:
        return url, ""
    apart = f"{url}-{digest(config, more)}"
    if not run and not _other(apart, config, cases):
        return apart, f"{url} holds a run with {other}, and is left alone; this one goes to {apart}"
    raise ConfigError(
        f"--run {url}: holds a run with {other}, and is left alone; give another --run, or delete that folder first"
    )


def _other(url: str, config: DistillConfig, cases: Mapping[str, DistillConfig] | None) -> str:
    """Return what another configuration's run in a folder has differently; empty if there is no such run."""
    skip = SIZES if cases is not None else ()
    found = [_other(f"{url}/{name}", case, None) for name, case in (cases or {}).items()]
    try:
        found += [same_but(before, config, skip) for before in _held(Folder(url))]
    except ConfigError as exc:
        found.append(f"options that this version of wmdd does not take ({exc})")
    return next(filter(None, found), "")


def _held(folder: Folder) -> list[DistillConfig]:
    """Return the configurations of a folder's finished run, and of the one that has begun to finish units.

    Raises:
        ConfigError: if the finished one is of another version, which knows other options.
    """
    found, results = [], [folder.read(name) for name in _RESULTS]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found.append(parse_config(json.loads(results[0] or b"")["config"]))
    if any(results) or b'"kind": "unit"' in (folder.read("metrics.jsonl") or b""):
        found += _noted(folder)
    return found


def replaced(url: str, scores: Mapping[str, str]) -> str:
    """Return a note if a folder's finished run has the same configuration, and was made from something else.

    Args:
        scores: keys of the new run's results by unit.
    """
    folder = Folder(url)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        before = dict(json.loads(folder.read("manifest.json") or b"")["artifacts"]["evaluate"])
        if any(before.get(unit, key) != key for unit, key in scores.items()):
            return (
                f"{url}: images, weights or wmdd's version have changed since its last run, whose results are replaced "
                "(the store has them)"
            )
    return ""


def _noted(folder: Folder) -> list[DistillConfig]:
    with contextlib.suppress(ValueError, ConfigError):  # damaged: the run that comes writes it again
        return [from_yaml((folder.read("config.yaml") or b"").decode())]
    return []


def forget_other(folder: Folder, config: DistillConfig, skip: Collection[str] = ()) -> None:
    """Remove what tells of a run of another configuration, which is given up or finished nothing: two must not mix.

    Args:
        skip: options that several runs of the folder have differently.
    """
    if any(same_but(before, config, skip) for before in _noted(folder)):
        for name in ("manifest.json", "metrics.jsonl"):
            folder.remove(name)


@contextlib.contextmanager
def hold(url: str, check: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Keep a local run folder from other processes, for as long as this one is at work in it; it may be new.

    Args:
        check: what was checked of the folder before, once more: another process may have been at work there since.

    Raises:
        ConfigError: if another process is at work there, and as the check does.
    """
    folder = Folder(url)
    lock = _lock(Path(folder.root), url) if folder.is_local else None
    if lock is None:
        yield
        return
    _OPEN.add(lock)
    try:
        check()
        yield
    finally:
        _OPEN.discard(lock)
        os.close(lock)


def _lock(folder: Path, url: str) -> int | None:
    """Lock a folder itself, which leaves no file behind; None where that cannot be done."""
    try:
        import fcntl

        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # no such locks on Windows; a folder that cannot be written is told later
        return None
    limit = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > limit:
                os.close(lock)
                raise ConfigError(
                    f"--run {url}: another process is at work in it; wait for its end, or give another --run"
                ) from None
            time.sleep(0.2)
        except OSError:  # a file system without locks
            os.close(lock)
            return None


_OPEN: set[int] = set()


def _close_in_child() -> None:
    """Close a forked child's copies, which would keep the folder locked when its parent is gone."""
    while _OPEN:
        os.close(_OPEN.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
