"""Folders that wmdd wrote below a set are no part of it."""

from image_files import CLASSES, folder, images, parquet, png
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.layouts.sources import list_files
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.storage.store import ArtifactStore


def test_runs_and_stores_in_a_set_are_no_part_of_it(tmp_path):
    url = folder(tmp_path, *images("", count=3), "runs/x/images.png")
    for name in ("run.json", "config.yaml"):
        (tmp_path / "runs/x" / name).write_text("{}")
    (tmp_path / "runs/x/images").mkdir()
    parquet(tmp_path / "runs/x/images", "train-00000-of-00001.parquet")
    key = tmp_path / "runs/store/recover" / ("0" * 32)
    (key / "a").mkdir(parents=True)
    (key / "commit.json").write_text("{}")
    (key / "a/images.bin").write_bytes(b"x")
    index = build_index(url)
    assert (index.class_names, len(index.train) + len(index.val)) == (CLASSES, 6)
    assert list_files(url).notes == ("left out: runs/store, runs/x (written by wmdd)",)


SPLITS = [f"{split}/{name}/{number}.png" for split in ("train", "val") for name in "ab" for number in range(3)]


def test_note_names_the_very_folder_that_wmdd_wrote(tmp_path):
    url = folder(tmp_path, *SPLITS)
    (tmp_path / "train/runs/x").mkdir(parents=True)
    for name in ("config.yaml", "run.json", "images.png"):
        (tmp_path / "train/runs/x" / name).write_text("")
    assert "left out: train/runs/x (written by wmdd)" in list_files(url).notes


def leave(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(9))


# What wmdd leaves behind in a folder, by what wrote it; none of it has the mark of a newer store.
OWN = {
    "run": ("run.json", "config.yaml", "metrics.jsonl", "images/train-00000-of-00001.parquet", "images.png"),
    "begun run": ("run.json", "config.yaml"),
    "comparison": ("config.yaml", "compare.json", "compare.png", "wmdd-ipc-1/run.json", "wmdd-ipc-1/config.yaml"),
    "begun ranking": ("config.yaml", "metrics.jsonl"),
    "ranking": ("config.yaml", "metrics.jsonl", "ranking.json", "ranking.md"),
    "search": ("config.yaml", "tune.json", "trials.parquet", "ray/trials/a/result.png"),
    "store": (f"select/{'0a' * 16}/commit.json", f"select/{'0a' * 16}/5f/images.png", "notes/a.parquet"),
    "export": (".wmdd-export", "a/00000.png", "b/00000.png"),
    "new store": (".wmdd-store", f"index/{'0a' * 16}/5f/train.parquet"),
}


@each_of("what", OWN)
@each_of("place", ["runs/a", "out", "train/out", "train/a/deep"])
def test_folders_of_wmdd_are_no_part_of_the_set(tmp_path, what, place):
    plain = folder(
        tmp_path / "plain", *(f"train/{c}/{i}.png" for c in "ab" for i in range(3)), "val/a/0.png", "val/b/0.png"
    )
    url = folder(
        tmp_path / "set", *(f"train/{c}/{i}.png" for c in "ab" for i in range(3)), "val/a/0.png", "val/b/0.png"
    )
    leave(tmp_path / "set" / place, *OWN[what])
    index, expected = build_index(url), build_index(plain)
    assert (index.kind, index.class_names) == ("folder", ("a", "b"))
    assert (index.train.files, index.val.files) == (expected.train.files, expected.val.files)


@each_of("what", OWN)
def test_folders_of_wmdd_are_no_classes(tmp_path, what):
    url = folder(tmp_path / "set", *(f"{c}/{i}.png" for c in "ab" for i in range(3)))
    leave(tmp_path / "set/runs/x", *OWN[what])
    (tmp_path / "set/runs/store/notes").mkdir(parents=True)
    assert build_index(url).class_names == ("a", "b")
    for name in (what, "a"):  # the set may be what a run made, or be called anything
        assert list_files(folder(tmp_path / name / "set", "a/0.png", "b/0.png")).files["train"] == (
            "a/0.png",
            "b/0.png",
        )


def test_new_run_below_a_set_is_no_part_of_it(tmp_path, monkeypatch):
    folder(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(3)))
    monkeypatch.chdir(tmp_path)
    config = override(recipe("cifar10"), {"data.path": "."})
    first, ref = load_index(config, ArtifactStore("runs/store"), lambda done, total: None)
    assert first.class_names == ("a", "b")
    (tmp_path / "runs/x").mkdir()
    leave(tmp_path / "runs/x", *OWN["run"])
    assert load_index(config, ArtifactStore("runs/store"), lambda done, total: None)[1] == ref


def test_parquet_that_a_run_made_can_be_a_set(tmp_path):
    (tmp_path / "run/images").mkdir(parents=True)
    parquet(tmp_path / "run/images", "train-00000-of-00001.parquet", count=12)
    leave(tmp_path / "run", "run.json", "config.yaml")
    assert build_index(str(tmp_path / "run/images")).kind == "parquet"
