"""Input that cannot work is refused with one line, whatever is wrong with it."""

import subprocess
import sys

import pytest
from conftest import TINY, call, commits, environment, run
from PIL import Image


@pytest.fixture
def place(tmp_path):
    """A folder with sets and files that are wrong in one way each."""
    for path in ("one/train/ant/0.png", "one/train/ant/1.png", "loose/ant/0.png", "loose/bee/0.png", "loose/stray.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (len(path), 9, 9)).save(tmp_path / path)
    for name, text in (
        ("list.yaml", "- 1\n"),
        ("cut.yaml", "recover: [1\n"),
        ("section.yaml", "recovery: {lr: 1}\n"),
        ("scalar.yaml", "recover: 3\n"),
        ("value.yaml", "recover: {lr: fast}\n"),
    ):
        (tmp_path / name).write_text(text)
    for name in ("images.zip", "cut.zip"):
        (tmp_path / name).write_bytes(b"PK\3\4" * 20)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "garbage.safetensors").write_bytes(b"nope" * 100)
    return tmp_path


# Words, and what the line must hold: the option, the value, the remedy or the choices.
REFUSED = {
    "executor": (("--executor", "spark"), ("--executor", "spark", "local")),
    "seed": (("--seed", "x"), ("--seed x: ", "whole number")),
    "no images": (("--ipc", "0"), ("--ipc 0: ", "greater than or equal to 1")),
    "two addresses": (("--address", "a:1", "--ray.address", "b:1"), ("--address a:1", "--ray.address b:1", "give one")),
    "no value": (("--recover.lr",), ("--recover.lr", "argument")),
    "nan": (("--recover.lr", "nan"), ("--recover.lr", "nan", "finite")),
    "reversed range": (("--recover.crop_scale", "1,0.5"), ("--recover.crop_scale", "try 0.5,1.0")),
    "boolean": (("--recover.flip", "maybe"), ("--recover.flip", "maybe")),
    "choice": (("--pretrain.stem", "big"), ("--pretrain.stem", "big", "stride2")),
    "GPU to decode": (("--pretrain.decode", "gpu"), ("pretrain.decode=gpu", "runtime.device=auto", "cuda")),
    "deep net": (("--pretrain.model", "convnet9"), ("pretrain.model=convnet9", "16 px")),
    "no validation": (("--data.val_fraction", "0"), ("data.val_fraction", "above 0")),
    "one class": (("--data.path", "one"), ("data.path=", "/one: ", "ant", "two")),
    "one class kept": (("--data.classes", "3"), ("class, 3", "two")),
    "loose image": (("--data.path", "loose"), ("loose", "stray.png", "move it")),
    "yaml list": (("--config", "list.yaml"), ("--config list.yaml", "mapping")),
    "cut yaml": (("--config", "cut.yaml"), ("--config cut.yaml", "not YAML", "line 1")),
    "unknown section": (("--config", "section.yaml"), ("--config section.yaml", "recovery", "recover")),
    "scalar section": (("--config", "scalar.yaml"), ("--config scalar.yaml", "recover=3")),
    "yaml value": (("--config", "value.yaml"), ("--config value.yaml", "recover.lr='fast'")),
    "yaml folder": (("--config", "."), ("--config .", "directory")),
    "binary yaml": (("--config", "binary.yaml"), ("--config binary.yaml",)),
    "garbage weights": (
        ("--pretrain.checkpoint", "garbage.safetensors"),
        ("pretrain.checkpoint", "garbage.safetensors"),
    ),
    "empty net": (("--pretrain.model", "convnet3_w0"), ("pretrain.model=convnet3_w0",)),
    "store is a file": (("--store", "list.yaml"), ("--store", "list.yaml")),
    "run is a file": (("--run", "list.yaml"), ("--run", "list.yaml")),
    "web store": (("--store", "http://127.0.0.1:9/x"), ("--store http://127.0.0.1:9/x", "cannot be written to")),
    "store in an archive": (("--store", "zip://x::a.zip"), ("--store zip://x::a.zip", "read only")),
    "archive": (("--data.path", "images.zip"), ("images.zip", "unpack it", "zip://::")),
    "cut archive": (("--data.path", "zip://x::cut.zip"), ("zip://x::cut.zip", "damaged")),
    "no archive": (("--data.path", "zip://x::none.zip"), ("zip://x::none.zip", "no such file")),
    "store nowhere": (("--store", "/proc/x"), ("--store /proc/x", "cannot be written")),
    "run nowhere": (("--run", "/proc/x", "--store", "s"), ("--run /proc/x", "cannot be written")),
    "file system": (("--data.path", "nofs://x"), ("data.path", "nofs://x")),
}


# Each kind of place where a line comes from, as a process: nothing else may reach its standard error.
AS_PROCESS = ("executor", "nan", "cut yaml", "loose image", "garbage weights", "web store")


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_one_line(place, case):
    words, parts = REFUSED[case]
    begin = run if case in AS_PROCESS else call
    result = begin(place, "distill", "digits", *TINY, "--executor", "local", *words)
    assert result.returncode == 2, result.stderr[-500:]
    (line,) = result.stderr.splitlines()
    assert line.startswith("wmdd: ")
    for part in parts:
        assert part in line
    assert {name.partition("/")[0] for name in commits(place / "runs/store")} <= {"index"}


def test_recipe_without_images_asks_for_a_path(tmp_path):
    result = call(tmp_path, "plan", "cifar10")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "--data.path" in line


def test_report_of_no_run_is_refused(tmp_path):
    result = call(tmp_path, "report", "runs/none")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "runs/none" in line
    assert "--run" in line


def test_folder_that_is_gone_is_one_line(tmp_path):
    words = f"cd '{tmp_path}' && rmdir '{tmp_path}' && exec '{sys.executable}' -m wmdd plan digits"
    result = subprocess.run(["sh", "-c", words], capture_output=True, text=True, env=environment(), timeout=200)
    assert result.returncode == 2
    assert result.stderr.startswith("wmdd: the current folder was removed")
    assert len(result.stderr.splitlines()) == 1
