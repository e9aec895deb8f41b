"""Whose a run folder is: it belongs to one configuration, and one process at a time writes into it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wmdd.config.distill import DistillConfig
from wmdd.engine.run_names import digest, run_name, same_but
from wmdd.engine.run_start import noted_config
from wmdd.errors import ConfigError
from wmdd.keys import content_key
from wmdd.storage.folder import Folder

WAIT_S = 10.0  # for a run that is about to end
SIZES = frozenset({"ipc"})  # a comparison has several
_RESULTS = ("manifest.json", "compare.json", "ranking.json")


def default_run(config: DistillConfig, command: str = "distill", options: Mapping[str, Any] | None = None) -> str:
    """Return the run folder that a command, with options that are not the default ones, takes without ``--run``."""
    if command in ("distill", "plan"):
        return f"runs/{run_name(config)}"
    name = run_name(config, SIZES if command == "compare" else ())
    return f"runs/{name}-{command}" + (f"-{content_key(dict(options))[:8]}" if options else "")


def choose_run(
    run: str | None,
    config: DistillConfig,
    command: str = "distill",
    *,
    cases: Mapping[str, DistillConfig] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Return the URL of the run folder, and a note if the default folder belongs to another configuration.

    Args:
        run: the folder that was asked for; None: the default one.
        cases: a comparison's runs, by the names of their folders below the comparison's.
        options: of a comparison or ranking besides its configuration, if they are not the default ones.

    Raises:
        ConfigError: if `run` holds results of another configuration.
    """
    url = (run or default_run(config, command, options)).rstrip("/")
    other = _other(url, config, cases)
    if not other:
        return url, ""
    apart = f"{url}-{digest(config, options)}"
    if not run and not _other(apart, config, cases):
        return apart, f"{url} holds a run with {other}, and is left alone; this one goes to {apart}"
    raise ConfigError(
        f"--run {url}: holds a run with {other}, and is left alone; give another --run, or delete that folder first"
    )


def _other(url: str, config: DistillConfig, cases: Mapping[str, DistillConfig] | None) -> str:
    """Return in words how the run in a folder differs in its configuration; empty if it does not, or holds no run."""
    skip = SIZES if cases is not None else ()
    differences = [_other(f"{url}/{name}", case, None) for name, case in (cases or {}).items()]
    try:
        differences += [same_but(before, config, skip) for before in _held(Folder(url))]
    except ConfigError as exc:
        differences.append(f"options that this version of wmdd does not take ({exc})")
    return next(filter(None, differences), "")


def _held(folder: Folder) -> list[DistillConfig]:
    """Return the configurations of a folder's finished run, and of the one that has begun to finish units."""
    held = []
    results = [folder.read(name) for name in _RESULTS]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        held.append(DistillConfig.checked(json.loads(results[0] or b"")["config"]))
    if any(results) or b'"kind": "unit"' in (folder.read("metrics.jsonl") or b""):
        noted = noted_config(folder)
        held += [noted] if noted else []
    return held


def replaced(url: str, scores: Mapping[str, str]) -> str:
    """Return a note if a folder's finished run of the same configuration has other keys of scores, by unit."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        before = dict(json.loads(Folder(url).read("manifest.json") or b"")["artifacts"]["evaluate"])
        if any(before.get(unit, key) != key for unit, key in scores.items()):
            return (
                f"{url}: images, weights or wmdd's version have changed since its last run, whose results are replaced "
                "(the store has them)"
            )
    return ""


@contextlib.contextmanager
def hold(url: str, check: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Lock a local run folder, which may be new, while this process works in it.

    Args:
        check: checks the folder again, as another process may have worked there since it was checked first.

    Raises:
        ConfigError: if another process works there, and as the check does.
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
    except (ImportError, OSError):  # no such locks on Windows; a folder that cannot be written is reported later
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
    """Close a forked child's copies, which would keep the folder locked after its parent has ended."""
    while _OPEN:
        os.close(_OPEN.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
