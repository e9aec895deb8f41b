"""When a run folder is written again, and when it is left as it is."""

import json
import shutil

import pytest
from tables import each_of

from wmdd.commands.distill import distill, rewrite
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.report import inputs
from wmdd.storage.store import ArtifactRef, ArtifactStore

CONFIG = override(
    recipe("digits"),
    {
        **{"ipc": 1, "pretrain.epochs": 1, "recover.iterations": 2, "relabel.epochs": 2},
        **{"evaluate.num_students": 1, "evaluate.baselines": ()},
    },
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with its store."""
    folder = tmp_path_factory.mktemp("finished")
    run_again(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """The finished run, which is restored afterwards: its files hold its path."""
    shutil.copytree(finished, tmp_path / "copy")
    yield finished
    shutil.rmtree(finished)
    shutil.copytree(tmp_path / "copy", finished)


def run_again(folder):
    return distill(CONFIG, run=str(folder / "run"), store=str(folder / "store"), executor="local")


def written_at(folder):
    """Return when each file of the results was written; what a run begins with is written by every run."""
    begun = ("config.yaml", "run.json", "metrics.jsonl")
    files = (path for path in (folder / "run").rglob("*") if path.is_file() and path.name not in begun)
    return {str(path.relative_to(folder / "run")): path.stat().st_mtime_ns for path in files}


def test_run_that_is_whole_is_left_as_it_is(folder):
    before = written_at(folder)
    metrics = json.loads((folder / "run/metrics.json").read_text())
    assert run_again(folder).metrics == metrics
    assert written_at(folder) == before


def remove_picture(folder):
    (folder / "run/images.png").unlink()


def damage_labels(folder):
    file = folder / "run/labels/part-00000.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def leave_stray(folder):
    (folder / "run/images/train-00001-of-00002.parquet").write_bytes(b"of an earlier run")


def forget_files(folder):
    file = folder / "run/manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["written"]  # as earlier versions wrote it
    file.write_text(json.dumps(manifest))


def cut_manifest(folder):
    file = folder / "run/manifest.json"
    file.write_bytes(file.read_bytes()[:-100])


def compute_again(folder):
    manifest = json.loads((folder / "run/manifest.json").read_text())
    unit, key = next(iter(manifest["artifacts"]["evaluate"].items()))
    ArtifactStore(str(folder / "store")).withdraw(ArtifactRef("evaluate", unit, key))


@each_of("change", [remove_picture, damage_labels, leave_stray, forget_files, cut_manifest, compute_again])
def test_run_that_is_not_whole_is_written_again(folder, change):
    before = written_at(folder)
    change(folder)
    run_again(folder)
    after = written_at(folder)
    assert set(after) == set(before)
    assert all(after[name] > before[name] for name in before)
    run_again(folder)
    assert written_at(folder) == after


def test_run_that_was_rewritten_is_left_as_it_is(folder):
    rewrite(str(folder / "run"))
    before = written_at(folder)
    run_again(folder)
    assert written_at(folder) == before


def test_changed_page_is_written_again(folder, monkeypatch):
    assert {"template.html", "page.py", "folder.py", "scores.py"} <= set(inputs.writers())
    before = written_at(folder)
    monkeypatch.setattr(inputs, "writers", lambda: {"template.html": "changed"})
    run_again(folder)
    assert all(time > before[name] for name, time in written_at(folder).items())
