"""What a run folder holds from the start of its run: ``config.yaml``, and ``run.json`` with store and index."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection
from dataclasses import dataclass

from wmdd.config.distill import DistillConfig, from_yaml
from wmdd.engine.locations import default_store, open_folder
from wmdd.engine.run_names import portable_yaml, same_but
from wmdd.engine.task import Plan
from wmdd.errors import ConfigError, StorageError
from wmdd.storage.filesystem import explain
from wmdd.storage.folder import Folder, absolute_url
from wmdd.storage.store import ArtifactRef, ArtifactStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStart:
    """What a run was started with.

    Args:
        store: URL of its store.
        index: key of the indexed set.
        weights: digest of the file that the teacher is loaded from, if it is.
        until: the stage that it ends with, if it is not the last.
    """

    config: DistillConfig
    store: str
    index: ArtifactRef
    weights: str | None
    until: str | None


def note_start(url: str, plan: Plan, store: ArtifactStore) -> None:
    """Write configuration and store into a run folder at once, so that a killed run can be recognised and reported."""
    note_config(url, plan.config)
    start = {"schema": 1, "store": store.url, "index": plan.index_ref.key, "weights": plan.weights}
    start |= {"until": plan.until} if plan.until else {}
    Folder(url).write("run.json", json.dumps(start, indent=1).encode())


def note_config(url: str, config: DistillConfig, skip: Collection[str] = ()) -> None:
    """Write a run folder's configuration before its work; raise ConfigError if nothing can be written there.

    Args:
        skip: options in which several runs of the folder differ.
    """
    folder = open_folder("--run", url)
    try:
        forget_other(folder, config, skip)
        folder.write("config.yaml", portable_yaml(config).encode())
    except StorageError as exc:
        raise ConfigError(f"--run {url}: cannot be written {explain(exc.__cause__ or exc)}") from exc


def noted_config(folder: Folder) -> DistillConfig | None:
    """Return the configuration that a run folder was started with; None if it has none, or a damaged one."""
    with contextlib.suppress(ValueError, ConfigError):  # the next run writes a damaged one again
        return from_yaml((folder.read("config.yaml") or b"").decode())
    return None


def forget_other(folder: Folder, config: DistillConfig, skip: Collection[str] = ()) -> None:
    """Remove what is left of an unfinished run of another configuration, so that the two do not mix."""
    before = noted_config(folder)
    if before and same_but(before, config, skip):
        folder.remove("manifest.json")
        folder.remove("metrics.jsonl")


def read_start(url: str) -> RunStart:
    """Read what `note_start` wrote into a run folder.

    Raises:
        ConfigError: if there is no run, or its files are damaged.
        StorageError: if it cannot be read.
    """
    folder = Folder(url)
    noted, yaml = folder.read("run.json"), folder.read("config.yaml")
    if noted is None or yaml is None:
        raise no_run(url)
    try:
        start = json.loads(noted)
        index = ArtifactRef("index", "index", str(start["index"]))
        rest = {"store": str(start["store"]), "weights": start.get("weights"), "until": start.get("until")}
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"RUN {url}: run.json is damaged; the same wmdd distill writes it again") from exc
    try:
        return RunStart(from_yaml(yaml.decode()), index=index, **rest)
    except ConfigError as exc:
        raise ConfigError(f"RUN {url}: config.yaml: {exc}; the same wmdd distill writes it again") from exc


def no_run(url: str) -> ConfigError:
    """Return the error for a folder that holds no run."""
    if Folder(url).read("compare.json") is not None:
        return ConfigError(f"RUN {url}: holds a comparison; give a case of it, such as {url}/wmdd-ipc-1")
    return ConfigError(f"RUN {url}: holds no run (run.json); give the folder of wmdd distill --run")


def find_store(url: str, start: RunStart, store: str | None) -> ArtifactStore:
    """Open the store of a run: the one that is named, else the default one of its folder or the one of its start.

    Raises:
        ConfigError: if the run's index is in none of them.
    """
    urls = list(dict.fromkeys([store] if store else [default_store(url), start.store]))
    for candidate in urls:
        try:
            artifacts = ArtifactStore(candidate)
            if start.index in artifacts:
                return artifacts
        except (ConfigError, StorageError) as exc:
            if store:
                raise
            logger.info("no store at %s: %s", candidate, exc)  # on another machine, or for another user
    tried = " nor at ".join(dict.fromkeys(map(absolute_url, urls)))
    raise ConfigError(f"RUN {url}: its store is not at {tried}; give its place, --store URL")
