"""Exports keep the numbers of the classes, and mix with nothing."""

import csv
import json
import re
import shutil
import unicodedata

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from tables import each_of
from torchvision.datasets import ImageFolder

from wmdd.cli.main import cli
from wmdd.commands.export import export
from wmdd.commands.folder_names import class_folders
from wmdd.config.distill import override, to_yaml
from wmdd.config.recipes import recipe
from wmdd.distilled import images_table, load_distilled
from wmdd.errors import ArtifactError, ConfigError
from wmdd.method.artifacts import DistilledClass


def write_run(folder, names, ipc=1, weights=None, shade=0):
    """A run folder with the images alone; each class has a shade of grey."""
    classes = [
        DistilledClass(
            class_id=class_id,
            class_name=name,
            images=torch.full((ipc, 3, 4, 4), shade + class_id % 200, dtype=torch.uint8),
            mass=torch.tensor(weights) if weights else torch.full((ipc,), 1 / ipc),
        )
        for class_id, name in enumerate(names)
    ]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pq.write_table(images_table(classes, names), folder / "images/train-00000-of-00001.parquet")
    return str(folder)


KEPT = {
    "plain": ["cat", "dog"],
    "ampersand": ["A&B", "AAB"],
    "signs": ["!", "#1", "$", "$$", "'", "(a)", "+", ",", "[b]", "a b", "a=b", "{c}", "~"],
    "what Windows forbids": ["a:b", "c*", "d?", "e|f", 'g"', "h<i>", "k\\l"],
    "letters": ["Zebra", "apple", "caf\u00e9", "\u65e5\u672c", "\U0001f600"],
    "spaces at the ends": [" a", "b ", "c."],
    "sorted numbers": ["0", "1", "10", "2"],
    "folders' names as long as allowed": ["a" * 255, "b" * 255],
    "names of splits": ["test", "train"],
    "one that begins with another": ["a", "a b", "a-b", "ab"],
}
NUMBERED = {
    "numbers": [str(number) for number in range(12)],
    "an order of one's own": ["dog", "cat"],
    "imagewoof": ["n02086240", "n02087394", "n02085936"],
    "a slash that leaves another order": ["a/b", "aZ"],
    "a slash, which makes two names one": ["a/b", "a_b"],
    "names of this folder and its parent": [".", ".."],
    "hidden": [".a", "b"],
    "passed over by Hugging Face": ["__background__", "cat"],
    "no name": ["", "_"],
    "twice": ["a", "a"],
    "case": ["CAT", "cat"],
    "two encodings of an accent": sorted(unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")),
    "sharp s": ["STRASSE", "stra\u00dfe"],
    "too long, and then equal": ["a" * 300, "a" * 301],
    "files of the export": ["classes.json", "weights.csv"],
    "more than five digits": [str(number) for number in range(100_001)],
}


@each_of("names", KEPT.values(), ids=KEPT)
def test_names_that_a_file_system_allows_stay(names):
    assert class_folders(names) == names


@each_of("names", NUMBERED.values(), ids=NUMBERED)
def test_folders_are_numbered_where_names_mislead(names):
    folders = class_folders(names)
    assert folders == sorted(folders)
    assert len({unicodedata.normalize("NFC", folder).casefold() for folder in folders}) == len(names)
    assert all(folder.split(" ", 1)[0] == f"{i:0{len(folder.split(' ', 1)[0])}d}" for i, folder in enumerate(folders))
    assert all(len(folder.encode()) <= 255 and not folder.startswith((".", "__")) for folder in folders)


@each_of(
    ("names", "folders"),
    [
        (["a/b", "c\0d"], ["a_b", "c_d"]),
        (["\u65e5" * 100], ["\u65e5" * 85]),
        (["9", "10"], ["00000 9", "00001 10"]),
        (["x/y", "A"], ["00000 x_y", "00001 A"]),
    ],
)
def test_only_what_cannot_stay_is_replaced(names, folders):
    assert class_folders(names) == folders


@each_of(
    "names",
    [KEPT["ampersand"], KEPT["signs"], KEPT["what Windows forbids"], KEPT["letters"], KEPT["spaces at the ends"]]
    + [names for name, names in NUMBERED.items() if name not in ("twice", "more than five digits")],
    ids=lambda names: names[0][:9],
)
def test_image_folder_numbers_classes_as_the_run(tmp_path, names):
    run = write_run(tmp_path / "run", names)
    export(run, "folder", str(tmp_path / "out"))
    ours, read = load_distilled(run), ImageFolder(str(tmp_path / "out"))
    assert [int(np.asarray(image)[0, 0, 0]) for image, _ in read] == list(range(len(names)))
    assert [label for _, label in read] == ours.labels.tolist()
    card = json.loads((tmp_path / "out/classes.json").read_text())["classes"]
    assert [entry["name"] for entry in card] == list(ours.class_names)
    assert {entry["folder"]: entry["class_id"] for entry in card} == read.class_to_idx


def test_export_goes_into_the_run_by_default(tmp_path):
    run = write_run(tmp_path / "run", ["dog", "cat"])
    done = CliRunner().invoke(cli, ["export", run], catch_exceptions=False)
    assert f"2 images in {run}/export/CLASS/; torchvision.datasets.ImageFolder reads it" in done.output
    assert "classes.json has the class of each folder, such as '00001 cat'" in done.output
    assert len(load_distilled(run)) == 2
    assert len(ImageFolder(f"{run}/export")) == 2


def test_what_windows_does_not_allow_is_told(tmp_path):
    assert "Windows allows no folder such as 'a?'" in export(write_run(tmp_path / "a", ["a?", "b"]), "folder")
    assert "Windows" not in export(write_run(tmp_path / "b", ["CONE", "console", "nul-1", "x.y"]), "folder")
    assert "Windows allows no folder such as 'nul'" in export(write_run(tmp_path / "c", ["nul", "x"]), "folder")


def test_export_continues_and_keeps_what_is_there(tmp_path):
    run, out = write_run(tmp_path / "run", ["a", "b"], ipc=2), tmp_path / "run/export"
    export(run, "folder")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (out / "b/00001.png").unlink()
    export(run, "folder")
    assert {path for path in out.rglob("*.png") if path.stat().st_mtime_ns != before[path]} == {out / "b/00001.png"}


@each_of("other", [{"shade": 1}, {"ipc": 1}, {"weights": [0.25, 0.75]}, {"names": ["a", "c"]}])
def test_export_of_other_images_is_not_mixed_in(tmp_path, other):
    like = {"names": ["a", "b"], "ipc": 2}
    export(write_run(tmp_path / "run", **like), "folder", str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"target=.*/out: holds an export of other images.*give another with target="):
        export(write_run(tmp_path / "other", **like | other), "folder", str(tmp_path / "out"))


def test_folder_of_other_files_is_left_alone(tmp_path):
    run = write_run(tmp_path / "run", ["a", "b"])
    (tmp_path / "run/export").mkdir()
    export(run, "folder")  # an empty folder is as good as none
    shutil.rmtree(tmp_path / "run/export/a")
    (tmp_path / "run/export/classes.json").unlink()
    with pytest.raises(ConfigError, match=r"target=.*/run/export: is not empty.*give another with target="):
        export(run, "folder")
    assert sorted(path.name for path in (tmp_path / "run/export").iterdir()) == [".wmdd-export", "b"]


def test_weights_of_names_with_commas_are_read_back(tmp_path):
    run = write_run(tmp_path / "run", ['a,"b"', "c\nd"], ipc=2, weights=[0.25, 0.75])
    export(run, "folder")
    with open(tmp_path / "run/export/weights.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["weight"]) for row in rows] == [0.25, 0.75] * 2
    assert all((tmp_path / "run/export" / row["path"]).is_file() for row in rows)


INEXPRESSIBLE = {
    "evaluate.optimizer=muon": {},
    "evaluate.temperature_decay=0.9": {},
    "evaluate.temperature_squared=true": {},
    "evaluate.student_temperature=fitted": {},
    "evaluate.labels=fixed": {},
    "evaluate.labels=hard": {"relabel.mix": "none"},
    "evaluate.loss=mse": {},
    "evaluate.ce_weight=0.5": {},
    "relabel.mix=mixup": {},
    "relabel.augment=randaugment": {},
    "recover.tiles=2": {"method": "wmdd"},
}


@each_of(("option", "others"), INEXPRESSIBLE.items(), ids=INEXPRESSIBLE)
def test_ddranking_gets_no_run_that_it_would_train_otherwise(tmp_path, option, others):
    run = write_run(tmp_path / "run", [str(number) for number in range(10)])
    name, value = option.split("=")
    config = override(recipe("cifar10"), {"evaluate.optimizer": "adamw", name: value, **others})
    (tmp_path / "run/config.yaml").write_text(to_yaml(config))
    with pytest.raises(ConfigError, match=rf"^{re.escape(option)}: ddranking .*; export a run of ") as caught:
        export(run, "ddranking")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run/export-ddranking").exists()


_ADAMW = {"evaluate.optimizer": "adamw"}


@each_of("changes", [_ADAMW, {"evaluate.optimizer": "sgd"}, {"method": "random", "recover.tiles": 2, **_ADAMW}])
def test_only_what_ddranking_cannot_train_is_refused(tmp_path, changes):
    run = write_run(tmp_path / "run", [str(number) for number in range(10)])
    (tmp_path / "run/config.yaml").write_text(to_yaml(override(recipe("cifar10"), changes)))
    with pytest.raises(ArtifactError, match=r"has no teacher\.safetensors"):  # which is read after the configuration
        export(run, "ddranking")


def test_folders_have_a_file_for_each_tile(tmp_path):
    images = torch.arange(2, dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4).contiguous()
    tiled = [DistilledClass(0, images, torch.full((2,), 0.5), class_name="a", tiles=2)]
    (tmp_path / "run/images").mkdir(parents=True)
    pq.write_table(images_table(tiled, ["a"]), tmp_path / "run/images/train-00000-of-00001.parquet")
    export(str(tmp_path / "run"), "folder")
    assert [image.size for image, _ in ImageFolder(str(tmp_path / "run/export"))] == [(4, 4)] * 8
    assert "tiles enlarged" in " ".join(CliRunner().invoke(cli, ["export", "--help"]).output.split())
