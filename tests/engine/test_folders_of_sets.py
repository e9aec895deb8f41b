"""Run folder and store may not be folders of the data set."""

import fsspec
import pytest
from click.testing import CliRunner
from image_files import folder
from tables import each_of

from wmdd.cli.main import cli
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.engine import locations
from wmdd.engine.locations import refuse_in_set
from wmdd.errors import ConfigError
from wmdd.storage.filesystem import entries
from wmdd.storage.store import ArtifactStore

SPLITS = [f"{split}/{name}/{number}.png" for split in ("train", "val") for name in "ab" for number in range(3)]


FLAT = [f"{name}/{number}.png" for name in "ab" for number in range(4)]


@each_of("place", [".", "train", "train/a"])
def test_run_and_store_are_no_folder_of_the_set(tmp_path, monkeypatch, place):
    folder(tmp_path, *SPLITS)
    monkeypatch.chdir(tmp_path)
    config = override(recipe("cifar10-quick"), {"data.path": "."})
    with pytest.raises(ConfigError, match=f"--run {place}: is a folder of the data set"):
        refuse_in_set(config, place, "elsewhere/store")
    with pytest.raises(ConfigError, match=f"--store {place}: is a folder of the data set"):
        refuse_in_set(config, "runs/x", place)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(cli, ["plan", "cifar10-quick", "--data.path", ".", "--store", place])
    assert isinstance(result.exception, ConfigError)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_new_folders_below_a_set_are_allowed(tmp_path, monkeypatch):
    folder(tmp_path, *FLAT)
    monkeypatch.chdir(tmp_path)
    config = override(recipe("cifar10-quick"), {"data.path": "."})
    refuse_in_set(config, "runs/x", "runs/store")
    for name in ("config.yaml", "run.json", "images.png", "export/a/0.png"):
        (tmp_path / "runs/x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs/x" / name).write_text("")
    refuse_in_set(config, "runs/x", "runs/store")


@each_of(
    ("path", "place"),
    [("memory://m/set", "memory://m/set"), ("memory://m/set/", "memory://m/set/train"),
     ("memory://m/set", "memory://m/set/train/a/"), ("memory://m/set", "memory://m/set/parts"),
     ("memory://m/wrapped", "memory://m/wrapped/data")],
)  # fmt: skip
def test_folder_of_a_set_on_another_storage_is_refused(path, place):
    fs = fsspec.filesystem("memory")
    for name in ("set/train/a/0.png", "set/parts/more/train-0.parquet", "wrapped/data/train/a/0.png"):
        fs.pipe_file(f"/m/{name}", b"x")
    config = override(recipe("cifar10-quick"), {"data.path": path})
    with pytest.raises(ConfigError, match=f"--run {place}: is a folder of the data set"):
        refuse_in_set(config, place, "memory://m/store")
    with pytest.raises(ConfigError, match=f"--store {place}: is a folder of the data set"):
        refuse_in_set(config, "memory://m/run", place)
    for other in ("memory://m/set/runs/a", "memory://m/sets", "memory://m", "m/set/train"):
        refuse_in_set(config, other, other)


def test_folder_of_a_set_is_known_through_links(tmp_path):
    folder(tmp_path / "set", "train/a/0.png")
    folder(tmp_path / "far", "a/0.png")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    (tmp_path / "set/linked").mkdir()
    (tmp_path / "set/linked/a").symlink_to(tmp_path / "far/a")
    (tmp_path / "set/new").mkdir()
    (tmp_path / "set/new/back").symlink_to(tmp_path / "set/new")
    config = override(recipe("cifar10-quick"), {"data.path": str(tmp_path / "link")})
    for name in ("set/train", "link/train", "set/linked"):
        for place in (str(tmp_path / name), f"file://{tmp_path}/{name}"):
            with pytest.raises(ConfigError, match="is a folder of the data set"):
                refuse_in_set(config, place, "elsewhere/store")
    refuse_in_set(config, str(tmp_path / "set/new"), str(tmp_path / "link/new"))


def test_store_in_a_set_is_not_listed_below_its_mark(tmp_path, monkeypatch):
    """On a remote storage, each folder of an artifact would be a request."""
    folder(tmp_path, "train/a/0.png")
    store = ArtifactStore(str(tmp_path / "runs/store"))
    store.check_writable()
    for number in range(5):
        store.write_note(f"note-{number}", b"x")
    listed = []
    monkeypatch.setattr(locations, "entries", lambda fs, path: listed.append(path) or entries(fs, path))
    config = override(recipe("cifar10-quick"), {"data.path": str(tmp_path)})
    refuse_in_set(config, str(tmp_path / "runs/x"), None)
    assert listed == [f"{tmp_path}/runs/store"]


def test_folder_of_runs_in_a_set_is_allowed(tmp_path):
    folder(tmp_path, "train/a/0.png")
    for name in (
        "x/config.yaml",
        "x/run.json",
        "x/images.png",
        "store/index/0a/commit.json",
        "store/index/0a/b/i.parquet",
    ):
        (tmp_path / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / name).write_text("")
    config = override(recipe("cifar10-quick"), {"data.path": str(tmp_path)})
    refuse_in_set(config, str(tmp_path / "runs"), str(tmp_path / "runs/store"))
