"""A run whose images hold tiles: what its folder, its metrics and its readers say."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import call, distill
from PIL import Image

from wmdd.distilled import load_distilled
from wmdd.method.tiles import decode

TILES = ("--recover.tiles", "2", "--relabel.epochs", "8", "--evaluate.baselines", "random")


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """The folder of a run of two images per class, each of four tiles."""
    root = tmp_path_factory.mktemp("tiled")
    result = distill(root, *TILES, begin=call)
    assert result.returncode == 0, result.stderr
    return root / "runs/digits"


def test_images_are_stored_once_and_read_as_networks_see_them(tiled):
    (file,) = (tiled / "images").iterdir()
    table = pq.read_table(file)
    assert (table.num_rows, set(table.column("tiles").to_pylist())) == (20, {2})
    images = load_distilled(str(tiled))
    assert len(images) == 80
    torch.testing.assert_close(images.weights, torch.full((80,), 1 / 8))
    assert images.labels.tolist() == [label for label in range(10) for _ in range(8)]
    assert images.images.shape == (80, 3, 16, 16)
    pixels = table.column("image").to_pylist()
    first = torch.from_numpy(np.array(Image.open(io.BytesIO(pixels[0]["bytes"])))).permute(2, 0, 1)
    assert torch.equal(images.images[:4], decode(first[None], 2))


def test_students_have_the_steps_of_the_stored_images(tiled):
    metrics = json.loads((tiled / "metrics.json").read_text())
    # 20 stored images are one batch of 20, so 80 tiles are four: 2 epochs in place of 8.
    assert metrics["training"] == {"epochs": 2, "steps": 8}
    assert metrics["tiles"] == 2
    assert metrics["bytes"]["images"] == 20 * 3 * 16 * 16
    manifest = json.loads((tiled / "labels/manifest.json").read_text())
    assert (manifest["tiles"], manifest["relabel"]["epochs"], manifest["relabel"]["batch_size"]) == (2, 2, 20)
    rows = [pq.read_table(path) for path in sorted((tiled / "labels").glob("*.parquet"))]
    assert sum(table.num_rows for table in rows) == 2 * 80


def test_fixed_labels_are_of_tiles(tmp_path):
    assert distill(tmp_path, *TILES, "--evaluate.labels", "fixed", begin=call).returncode == 0
    metrics = json.loads((tmp_path / "runs/digits/metrics.json").read_text())
    assert metrics["bytes"]["labels"] == 80 * 2 * 10
    assert metrics["training"]["steps"] == 8


def test_what_tiles_cannot_be_is_refused(tmp_path):
    for options, words in (
        (("--recover.tiles", "3"), "recover.tiles=3: does not divide data.image_size=16"),
        ((*TILES, "--barycenter.mass", "learned"), "recover.tiles=2: the tiles of an image have one mass"),
        ((*TILES, "--ipc", "60"), "recover.tiles=2: needs 240 real images of each class"),
        (
            ("--recover.mix", "cutmix", "--ipc", "1"),
            "recover.mix=cutmix: with ipc=1 a class has no other image to show; set it to none, or recover.tiles to 2",
        ),
        (
            ("--recover.feature_loss", "squared", "--recover.feature_weight", "0"),
            "recover.feature_loss=squared: is left out by recover.feature_weight=0; set that to",
        ),
        ((*TILES, "--evaluate.temperature_decay", "0.5"), "evaluate.temperature_decay=0.5: falls by epochs"),
    ):
        result = distill(tmp_path, *options, begin=call)
        assert result.returncode == 2, words
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
