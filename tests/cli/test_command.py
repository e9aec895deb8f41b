"""The command as a user meets it: real subprocesses, a finished run, bad input, and kills at every stage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wmdd.cli import cli
from wmdd.config import DistillConfig, section_names
from wmdd.distilled import load_distilled
from wmdd.store import ArtifactStore

TINY = [
    *("--pretrain.model", "convnet2_w16", "--pretrain.epochs", "3", "--evaluate.students", "convnet2_w16"),
    *("--recover.iterations", "12", "--relabel.epochs", "4", "--relabel.epochs_per_block", "2"),
    *("--evaluate.seeds", "2", "--evaluate.val_every", "2"),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def command(*words):
    return [sys.executable, "-m", "wmdd", *map(str, words)]


def wmdd(folder, *words):
    return subprocess.run(command(*words), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


def tiny(folder, *words, recipe="digits"):
    return wmdd(folder, "distill", recipe, *TINY, "--executor", "local", *words)


def commits(folder):
    return {path.parent.relative_to(folder): path.read_text() for path in Path(folder).glob("*/*/commit.json")}


def contents(folder):
    """Everything that a run computed, by unit: what must not depend on how it came about."""
    found = {}
    for path in Path(folder).glob("*/*/commit.json"):
        commit = json.loads(path.read_text())
        files = path.parent / commit["attempt"]
        found[commit["stage"], commit["unit"]] = {name: (files / name).read_bytes() for name in commit["files"]}
    return found


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    result = tiny(folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_distill_ends_with_the_table_and_the_report(finished):
    folder, result = finished
    for text in (
        "teacher convnet2_w16",
        "distilled, convnet2_w16",
        "random real",
        "full data",
        "runs/digits/report.html",
    ):
        assert text in result.stdout
    names = ("config.yaml", "manifest.json", "metrics.json", "metrics.jsonl", "teacher.safetensors", "images.png")
    for name in (*names, "report.html", "labels/manifest.json"):
        assert (folder / "runs/digits" / name).stat().st_size > 0, name
    assert len(list((folder / "runs/digits/labels").glob("part-*.parquet"))) == 2


def test_metrics_have_the_published_schema(finished):
    metrics = json.loads((finished[0] / "runs/digits/metrics.json").read_text())
    assert metrics["schema"] == 1
    assert metrics["full_data"]["top1"] == metrics["teacher"]["top1"]
    for name in ("distilled", "random_real"):
        scores = metrics[name]
        for kind in ("last", "best"):
            values = [run[f"top1_{kind}"] for run in scores["runs"]]
            assert len(values) == 2
            assert all(0 <= value <= 1 for value in values)
            assert scores[f"top1_{kind}_mean"] == pytest.approx(np.mean(values))
            assert scores[f"top1_{kind}_std"] == pytest.approx(np.std(values, ddof=1))
    assert metrics["protocol"]["name"] == "wmdd"
    assert set(metrics["seconds"]) >= {"pretrain", "statistics", "barycenter", "recover", "relabel", "evaluate"}


def test_second_run_executes_nothing(finished):
    folder, _ = finished
    before = commits(folder / "runs/store")
    lines = (folder / "runs/digits/metrics.jsonl").read_text().splitlines()
    assert tiny(folder).returncode == 0
    assert commits(folder / "runs/store") == before
    fresh = [json.loads(line) for line in (folder / "runs/digits/metrics.jsonl").read_text().splitlines()[len(lines) :]]
    assert fresh
    assert not [line for line in fresh if line["kind"] == "unit"]


def planned(folder, *words):
    result = wmdd(folder, "plan", "digits", *TINY, *words)
    assert result.returncode == 0, result.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    return {row[0]: int(row[3]) for row in rows if row[0]}


def test_plan_runs_nothing_and_names_what_a_change_would_run(finished):
    folder, _ = finished
    before = commits(folder / "runs/store")
    assert set(planned(folder).values()) == {0}
    changed = planned(folder, "--recover.bn_weight", 3)
    assert {stage for stage, left in changed.items() if left} == {"recover", "relabel", "evaluate"}
    assert changed["recover"] == 10
    assert changed["relabel"] == 2
    more = planned(folder, "--evaluate.seeds", 3)
    assert (more["evaluate"], more["recover"], more["pretrain"]) == (2, 0, 0)
    assert commits(folder / "runs/store") == before


def test_config_file_of_a_run_gives_the_same_keys(finished):
    folder, _ = finished
    result = wmdd(folder, "plan", "cifar10", "--config", "runs/digits/config.yaml")
    rows = [line.split("│") for line in result.stdout.splitlines() if "│" in line]
    assert [row[4].strip() for row in rows if row[1].strip()] == ["0"] * 7


def test_report_is_written_again(finished):
    folder, _ = finished
    page = folder / "runs/digits/report.html"
    page.unlink()
    result = wmdd(folder, "report", "runs/digits")
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    for part in ('src="http', " href=", "url(http", "<script"):
        assert part not in text
    assert text.count("<svg") == 4
    assert text.count("data:image/png;base64") == 20


def test_images_load_with_datasets_and_as_a_torch_dataset(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    run = finished[0] / "runs/digits"
    files = [str(path) for path in sorted((run / "images").glob("*.parquet"))]
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path), split="train")
    ours = load_distilled(str(run))
    assert len(loaded) == len(ours) == 10
    assert loaded.features["label"].names == list(ours.class_names)
    for row, image, label in zip(loaded, ours.images, ours.labels, strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), image.permute(1, 2, 0).numpy())
        assert (row["label"], row["class_name"], row["weight"]) == (int(label), str(int(label)), 1.0)
    item, label = ours[3]
    assert (item.shape, item.dtype, label) == ((3, 16, 16), torch.float32, 3)
    assert 0 <= item.min() <= item.max() <= 1


def test_another_seed_gives_other_images_and_the_same_seed_the_same(finished, tmp_path):
    other = tiny(tmp_path, "--seed", 1, "--evaluate.seeds", 1)
    assert other.returncode == 0, other.stderr
    ours, theirs = contents(finished[0] / "runs/store"), contents(tmp_path / "runs/store")
    key = ("recover", "class-00003")
    assert ours[key] != theirs[key]
    again = tiny(tmp_path, "--store", "fresh", "--evaluate.seeds", 1)
    assert again.returncode == 0, again.stderr
    for (stage, unit), files in contents(tmp_path / "fresh").items():
        if stage != "evaluate":
            assert files == ours[stage, unit], (stage, unit)


@pytest.mark.parametrize("name", ["distill", "plan"])
def test_help_lists_every_option_with_meaning_and_default(name):
    listed = {param.opts[0]: param for param in cli.commands[name].params}
    for section in section_names():
        for field, facts in type(getattr(DistillConfig(), section)).model_fields.items():
            assert facts.description
            help_text = listed[f"--{section}.{field}"].help
            assert facts.description in help_text
            assert "[default: " in help_text


def image_folder(root, spoil=None):
    """Three classes of pictures of mixed size, mode and format, with a validation split."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for class_id, name in enumerate(("ant", "bee", "cow")):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (20 + i, 26 - i, 3), dtype=np.uint8)
                pixels[:, :, class_id] += 120
                image, mode = Image.fromarray(pixels), ("RGB", "L", "P", "CMYK")[i % 4]
                image.convert(mode).save(folder / (f"{i}.jpg" if mode in ("RGB", "CMYK", "L") else f"{i}.png"))
    if spoil:
        spoil(root)
    return root


FOLDER = ("--data.image_size", "16", "--pretrain.batch_size", "8", "--ipc", "2", "--evaluate.seeds", "1")


def test_image_folder_of_mixed_files_is_distilled(tmp_path):
    image_folder(tmp_path / "zoo")
    result = tiny(tmp_path, "--data.path", "zoo", *FOLDER, "--recover.classes_per_batch", 2, recipe="cifar10")
    assert result.returncode == 0, result.stderr
    images = load_distilled(str(tmp_path / "runs/cifar10"))
    assert images.class_names == ("ant", "bee", "cow")
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]


def truncate(root):
    path = root / "train/bee/0.jpg"
    path.write_bytes(path.read_bytes()[:-60])


def test_truncated_image_is_named_and_what_was_finished_is_kept(tmp_path):
    image_folder(tmp_path / "zoo")
    first = tiny(tmp_path, "--data.path", "zoo", *FOLDER, recipe="cifar10")
    assert first.returncode == 0, first.stderr
    weights = ("--pretrain.weights", "runs/cifar10/teacher.safetensors")
    truncate(tmp_path / "zoo")
    result = tiny(tmp_path, "--data.path", "zoo", *FOLDER, *weights, recipe="cifar10")
    assert result.returncode == 1
    assert "train/bee/0.jpg is broken" in result.stderr.strip().splitlines()[-1]
    done = {json.loads(text)["unit"] for text in commits(tmp_path / "runs/store").values() if '"statistics"' in text}
    assert done == {"class-00000", "class-00001", "class-00002"}
    made = [json.loads(text) for text in commits(tmp_path / "runs/store").values()]
    kept = [(item["stage"], item["unit"]) for item in made]
    assert kept.count(("statistics", "class-00000")) == 2
    assert kept.count(("statistics", "class-00001")) == 1


BAD = {
    "option": (("--recover.lrr", "3"), "--recover.lrr"),
    "value": (("--recover.lr", "-1"), "recover.lr='-1'"),
    "recipe": (None, "recipe nope"),
    "yaml key": (("--config", "bad.yaml"), "recover.speed: no such option"),
    "yaml file": (("--config", "gone.yaml"), "--config gone.yaml"),
    "folder": (("--data.path", "gone"), "data.path="),
    "ipc": (("--ipc", "500"), "ipc=500"),
    "teacher": (("--pretrain.model", "squeezenet1_1", "--data.image_size", "64"), "no batch-norm"),
    "model": (("--pretrain.model", "resnet19"), "pretrain.model=resnet19"),
    "student": (("--evaluate.students", "resnet19"), "evaluate.students=resnet19"),
    "class": (("--data.classes", "1,2,eleven"), "data.classes=eleven"),
    "weights": (("--pretrain.weights", "gone.safetensors"), "pretrain.weights=gone.safetensors"),
    "empty class": (("--data.path", "empty"), "class dog"),
    "no image": (("--data.path", "spoilt"), "train/ant/0.jpg is no image"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line_before_any_training(tmp_path, case):
    options, named = BAD[case]
    (tmp_path / "bad.yaml").write_text("recover: {speed: 3}\n")
    image_folder(tmp_path / "empty")
    (tmp_path / "empty/train/dog").mkdir()
    image_folder(tmp_path / "spoilt")
    (tmp_path / "spoilt/train/ant/0.jpg").write_text("not an image")
    result = wmdd(tmp_path, "distill", "nope" if options is None else "digits", "--executor", "local", *(options or ()))
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert named in lines[0]
    assert not (tmp_path / "runs/store/pretrain").exists()


def test_teacher_without_batch_norm_is_taken_when_the_term_is_off(tmp_path):
    options = ("--pretrain.model", "squeezenet1_1", "--data.image_size", "64", "--recover.bn_weight", "0")
    assert wmdd(tmp_path, "plan", "digits", *options).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "statistics", "recover", "relabel", "evaluate"])
def test_run_killed_in_a_stage_goes_on_and_ends_like_an_undisturbed_one(finished, tmp_path, stage):
    words = command("distill", "digits", *TINY, "--executor", "local")
    process = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "runs/digits/metrics.jsonl"
    seen = False
    while process.poll() is None and not seen:
        news = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
        seen = any(item["stage"] == stage and item["kind"] in ("unit", "progress") for item in news)
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = commits(tmp_path / "runs/store")
    result = tiny(tmp_path)
    assert result.returncode == 0, result.stderr
    after = commits(tmp_path / "runs/store")
    assert {path: after[path] for path in before} == before
    assert contents(tmp_path / "runs/store") == contents(finished[0] / "runs/store")


@pytest.mark.slow
def test_two_runs_on_one_store_do_no_harm(finished, tmp_path):
    words = command("distill", "digits", *TINY, "--executor", "local")
    runs = [
        subprocess.Popen([*words, "--run", f"run-{i}"], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        for i in range(2)
    ]
    assert [run.wait(timeout=240) for run in runs] == [0, 0]
    assert contents(tmp_path / "runs/store") == contents(finished[0] / "runs/store")


def test_damaged_artifact_is_withdrawn_and_made_anew(finished, tmp_path):
    import shutil

    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    store = ArtifactStore(str(tmp_path / "runs/store"))
    (path,) = [
        p
        for p in Path(store.root).glob("recover/*/*/images.safetensors")
        if '"class-00004"' in (p.parents[1] / "commit.json").read_text()
    ]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    first = wmdd(tmp_path, "distill", "digits", *TINY, "--executor", "local")
    assert first.returncode == 1
    assert "is damaged" in first.stderr
    again = wmdd(tmp_path, "distill", "digits", *TINY, "--executor", "local")
    assert again.returncode == 0, again.stderr
    assert contents(store.root) == contents(finished[0] / "runs/store")
