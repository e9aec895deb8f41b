"""What a run gives away and takes up again: its configuration, its images, its store."""

import shutil
from pathlib import Path

import numpy as np
import torch
from conftest import TINY, call, commits, contents, distill, start, to_run

from wmdd.distilled import load_distilled


def test_configuration_of_a_run_leaves_nothing_to_run(tiny_run):
    assert set(to_run(tiny_run.folder, "--config", "runs/digits/config.yaml").values()) == {0}


def test_images_load_with_datasets_and_with_torch(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    files = [str(path) for path in sorted((tiny_run.run / "images").glob("*.parquet"))]
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path), split="train")
    ours = load_distilled(str(tiny_run.run))
    assert len(loaded) == len(ours) == 20
    assert loaded.features["label"].names == list(ours.class_names)
    for row, image, label in zip(loaded, ours.images, ours.labels, strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), image.permute(1, 2, 0).numpy())
        assert (row["label"], row["class_name"], row["weight"]) == (int(label), str(int(label)), 0.5)
    item, label = ours[7]
    assert (item.shape, item.dtype, label) == ((3, 16, 16), torch.float32, 3)
    assert 0 <= item.min() <= item.max() <= 1


def without_keys(found):
    return {(stage, unit): files for (stage, _, unit), files in found.items()}


def test_another_seed_gives_other_images(tiny_run, tmp_path):
    result = distill(tmp_path, "--seed", 1, "--evaluate.num_students", 1, begin=call)
    assert result.returncode == 0, result.stderr
    ours, theirs = without_keys(contents(tiny_run.store)), without_keys(contents(tmp_path / "runs/store"))
    assert ours["recover", "class-00003"] != theirs["recover", "class-00003"]


def test_two_runs_on_one_store_do_no_harm(tiny_run, tmp_path):
    runs = [
        start(tmp_path, "distill", "digits", *TINY, "--executor", "local", "--run", f"run-{i}", "--store", "runs/store")
        for i in range(2)
    ]
    ends = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ends
    assert contents(tmp_path / "runs/store") == contents(tiny_run.store)


def test_damaged_artifact_is_withdrawn_and_made_anew(tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder / "runs", tmp_path / "runs")
    store = tmp_path / "runs/store"
    (name,) = [name for name, text in commits(store).items() if '"class-00004"' in text and name.startswith("recover")]
    (path,) = Path(store, name).glob("*/images.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    first = distill(tmp_path, begin=call)
    assert first.returncode == 1
    assert "is damaged" in first.stderr
    again = distill(tmp_path, begin=call)
    assert again.returncode == 0, again.stderr
    assert contents(store) == contents(tiny_run.store)
