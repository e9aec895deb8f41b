"""ddranking 0.2.0 itself, in a separate environment, reads what `wmdd export --format ddranking` writes."""

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import call
from image_files import png

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("run_ddranking.py")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with ddranking, which wants another NumPy than ours."""
    if shutil.which("uv") is None:
        pytest.skip("uv, which makes environments, is not installed")
    folder = tmp_path_factory.mktemp("ddranking") / "env"
    try:
        subprocess.run(["uv", "venv", "-q", folder], check=True, capture_output=True, timeout=60)
        command = ["uv", "pip", "install", "-q", "--python", folder / "bin/python", "ddranking==0.2.0"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"ddranking 0.2.0 cannot be installed here: {type(exc).__name__}")
    yield folder / "bin/python"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run over ten classes of random pixels, with the teacher that ddranking can build."""
    folder = tmp_path_factory.mktemp("small")
    for number in range(60):
        split, c = ("val", number % 10) if number >= 40 else ("train", number % 10)
        (folder / "set" / split / f"c{c}").mkdir(parents=True, exist_ok=True)
        (folder / "set" / split / f"c{c}" / f"{number}.png").write_bytes(png(number, (32, 32)))
    words = ("--ipc", 1, "--pretrain.epochs", 1, "--recover.iterations", 1, "--relabel.epochs", 1)
    words += ("--evaluate.num_students", 1, "--evaluate.baselines", "none")
    words += ("--evaluate.optimizer", "adamw", "--evaluate.lr", 0.001, "--recover.tiles", 1)
    words += ("--executor", "local", "--run", "runs/cifar10")
    done = call(folder, "distill", "cifar10", "--data.path", "set", *words)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.timeout(600)
def test_ddranking_scores_an_export(python, finished, tmp_path):
    told = call(finished, "export", "runs/cifar10", "--format", "ddranking", "--to", tmp_path / "out")
    assert told.returncode == 0, told.stderr
    assert str(tmp_path) not in (tmp_path / "out/ddranking.yaml").read_text() + (tmp_path / "out/score.py").read_text()
    (tmp_path / "out").rename(tmp_path / "moved")
    scored = subprocess.run(
        [python, SCRIPT, tmp_path / "moved", tmp_path / "work"], capture_output=True, text=True, timeout=550
    )
    assert scored.returncode == 0, scored.stderr[-2000:]
    rows = list(csv.DictReader((tmp_path / "moved/scores.csv").read_text().splitlines()))
    assert rows
    assert "Random data soft label acc" in scored.stdout + scored.stderr


def test_export_as_folders_holds_the_images_by_class(finished, tmp_path):
    from torchvision.datasets import ImageFolder

    from wmdd.distilled import load_distilled

    told = call(finished, "export", "runs/cifar10", "--to", tmp_path / "out")
    assert told.returncode == 0, told.stderr
    assert "10 images" in told.stdout
    read, ours = ImageFolder(str(tmp_path / "out")), load_distilled(str(finished / "runs/cifar10"))
    assert tuple(read.classes) == ours.class_names
    for (image, label), pixels, own in zip(read, ours.images, ours.labels, strict=True):
        assert label == own
        np.testing.assert_array_equal(np.asarray(image), pixels.permute(1, 2, 0).numpy())


def test_export_keeps_weights_that_differ(finished, tmp_path):
    from wmdd.commands.export import export
    from wmdd.distilled import load_distilled

    run_url = str(finished / "runs/cifar10")
    export(run_url, "folder", str(tmp_path / "even"))
    assert not (tmp_path / "even/weights.csv").exists()
    shutil.copytree(run_url, tmp_path / "run")
    (file,) = (tmp_path / "run/images").glob("*.parquet")
    table = pq.read_table(file)
    weights = np.linspace(0.1, 1.0, len(table), dtype=np.float32)
    pq.write_table(table.set_column(table.schema.get_field_index("weight"), "weight", pa.array(weights)), file)
    told = export(str(tmp_path / "run"), "folder", str(tmp_path / "out"))
    assert "weights.csv has the weight of each" in told
    rows = list(csv.DictReader((tmp_path / "out/weights.csv").read_text().splitlines()))
    assert [np.float32(row["weight"]) for row in rows] == weights.tolist()
    assert all((tmp_path / "out" / row["path"]).exists() for row in rows)
    assert len(load_distilled(str(tmp_path / "run"))) == len({row["path"] for row in rows})


def test_export_that_cannot_be_made_is_one_line(tiny_run, tmp_path):
    for words, message in (
        (("runs/nosuch", "--to", tmp_path), "RUN runs/nosuch: holds no run"),
        (("runs/digits", "--to", "runs/digits"), "runs/digits: is not empty"),
        (("runs/digits", "--format", "ddranking", "--to", tmp_path), "--dataset: recipe digits does not say which set"),
        (("runs/digits", "--dataset", "CIFAR10", "--to", tmp_path), "--dataset CIFAR10: is for --format ddranking"),
        (
            ("runs/digits", "--format", "ddranking", "--dataset", "cifar-10", "--to", tmp_path),
            "--dataset cifar-10: ddranking has no such set; choose from CIFAR10, CIFAR100",
        ),
        (
            ("runs/digits", "--format", "ddranking", "--dataset", "CIFAR100", "--to", tmp_path),
            "--dataset CIFAR100: has 100 classes, the run 10",
        ),
        (
            ("runs/digits", "--format", "ddranking", "--dataset", "CIFAR10", "--to", tmp_path),
            "pretrain.model=convnet2_w16: ddranking builds no such network",
        ),
    ):
        told = call(tiny_run.folder, "export", *words)
        assert told.returncode in (1, 2)
        assert message in told.stderr
        assert told.stderr.count("\n") == 1
