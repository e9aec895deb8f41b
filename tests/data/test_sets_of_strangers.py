"""Sets, folders and options that people have, and that were read wrongly, hung, or were refused too late."""

import os
import subprocess
import sys
import zipfile

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from image_files import folder
from PIL import Image
from tables import each_of

from wmdd.cli.main import cli
from wmdd.commands.distill import distill
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.images import load_uint8
from wmdd.data.layouts.sources import list_files
from wmdd.data.scan import build_index
from wmdd.engine.run_folder import refuse_in_set
from wmdd.errors import ConfigError, DataError

SPLITS = [f"{split}/{name}/{number}.png" for split in ("train", "val") for name in "ab" for number in range(3)]
FLAT = [f"{name}/{number}.png" for name in "ab" for number in range(4)]


def greys(root, values, dtype=np.float32):
    """Write 32-bit images, each filled with a value, by the paths below both splits."""
    for split in ("train", "val"):
        for number, (name, value) in enumerate(values):
            place = root / split / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8 + number), value, dtype)).save(place / f"{number}.tiff")
    return str(root)


@each_of(
    ("dtype", "values"),
    [(np.float32, (1, 191)), (np.float32, (0.5, 200)), (np.int32, (100, 40_000))],
    ids=["float, whole", "float", "integers"],
)
def test_set_of_two_scales_is_refused(tmp_path, dtype, values):
    url = greys(tmp_path, [("dark", values[0]), ("light", values[1])], dtype)
    with pytest.raises(
        DataError, match=r"dark/0\.tiff holds values up to .*light/1\.tiff up to .*convert them to 8 or 16"
    ):
        build_index(url)


def test_black_images_have_any_scale(tmp_path):
    url = greys(tmp_path, [("dark", 0), ("dark", 10), ("light", 191), ("light", 2)])
    index = build_index(url)
    shown = load_uint8(index, "train", np.arange(4), size=8, crop_ratio=1.0)
    assert sorted(np.unique(shown).tolist()) == [0, 2, 10, 191]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_pipe_in_a_class_folder_is_refused(tmp_path):
    url = folder(tmp_path, *SPLITS)
    os.mkfifo(tmp_path / "train/a/x.png")
    with pytest.raises(DataError, match=r"train/a/x\.png is no regular file"):
        list_files(url)


def test_note_names_the_very_folder_that_wmdd_wrote(tmp_path):
    url = folder(tmp_path, *SPLITS)
    (tmp_path / "train/runs/x").mkdir(parents=True)
    for name in ("config.yaml", "run.json", "images.png"):
        (tmp_path / "train/runs/x" / name).write_text("")
    assert "left out: train/runs/x (written by wmdd)" in list_files(url).notes


@each_of(
    ("data", "told"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS; run git lfs pull"),
     (b"<!DOCTYPE html><html></html>", "is an HTML page, as of a failed download; download it again"),
     (b"PAR1 and no more", "is no readable Parquet file")],
    ids=["LFS", "page", "damaged"],
)  # fmt: skip
def test_parquet_file_that_is_something_else_is_named(tmp_path, data, told):
    (tmp_path / "train-0.parquet").write_bytes(data)
    with pytest.raises(DataError, match=f"train-0.parquet {told}"):
        build_index(str(tmp_path))


def test_archive_that_is_a_pointer_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DataError, match="the archive is a pointer of Git LFS; run git lfs pull"):
        list_files(f"zip://::{tmp_path}/x.zip")
    (tmp_path / "set").mkdir()
    with zipfile.ZipFile(tmp_path / "set/Good.zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(DataError, match=f"give zip://::{tmp_path}/set/Good.zip"):
        list_files(str(tmp_path / "set"))


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


def test_several_workers_in_one_process_are_refused(tmp_path):
    config = override(recipe("digits"), {"pretrain.workers": 2})
    with pytest.raises(ConfigError, match=r"pretrain\.workers=2: one process cannot train as several"):
        distill(config, run=str(tmp_path / "run"), store=str(tmp_path / "store"), executor="local")
    assert not (tmp_path / "run").exists()


@each_of("command", [("distill",), ("compare", "--methods", "random"), ("rank",)])
@each_of("option", ["--address", "--ray.address"])
def test_cluster_for_one_process_is_refused(command, option):
    words = [command[0], "digits", *command[1:], "--executor", "local", option, "1.2.3.4:6379"]
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, ConfigError)
    assert "1.2.3.4:6379: --executor local joins no cluster" in str(result.exception)


def test_command_draws_with_any_backend_of_a_notebook():
    code = "from wmdd.cli.main import main\ntry:\n    main(['recipes'])\nexcept SystemExit:\n    import matplotlib"
    there = {**os.environ, "MPLBACKEND": "module://nowhere.backend"}
    done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
