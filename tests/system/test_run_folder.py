"""What a finished run leaves behind."""

import io
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import STAGES, TINY, call, commits, news, run, to_run
from PIL import Image

from wmdd.commands.distill import distill, rewrite
from wmdd.config.distill import from_yaml
from wmdd.config.protocol_hash import protocol_hash
from wmdd.data.index import DatasetIndex
from wmdd.distilled import load_distilled
from wmdd.engine.plan import plan_from
from wmdd.errors import ArtifactError, ConfigError, StorageError
from wmdd.method.artifacts import DistilledClass
from wmdd.method.soft_labels import LabelBlock
from wmdd.report.costs import cost_line
from wmdd.stages import STAGES as KINDS
from wmdd.storage.artifact import unpack
from wmdd.storage.store import ArtifactRef, ArtifactStore


@pytest.fixture(scope="module")
def plan(tiny_run):
    """The plan of the finished run, read back from its folder."""
    facts = json.loads((tiny_run.run / "run.json").read_text())
    ref = ArtifactRef("index", "index", facts["index"])
    config = from_yaml((tiny_run.run / "config.yaml").read_text())
    return plan_from(config, ArtifactStore(str(tiny_run.store)).load(ref, DatasetIndex), ref)


def test_run_says_nothing_on_standard_error(tiny_run):
    assert tiny_run.result.stderr == ""
    assert tiny_run.result.stdout.splitlines()[-1] == "report  runs/digits/report.html"


def test_run_folder_is_whole(tiny_run):
    names = {str(path.relative_to(tiny_run.run)) for path in tiny_run.run.rglob("*") if path.is_file()}
    assert names == {
        *("config.yaml", "run.json", "manifest.json", "metrics.json", "metrics.jsonl", "teacher.safetensors"),
        *("images.png", "report.html", "images/train-00000-of-00001.parquet"),
        *("labels/manifest.json", "labels/part-00000.parquet", "labels/part-00001.parquet"),
    }
    assert all((tiny_run.run / name).stat().st_size > 0 for name in names)


def test_metrics_are_fractions_that_follow_from_runs(tiny_run, plan):
    metrics = json.loads((tiny_run.run / "metrics.json").read_text())
    assert metrics["schema"] == 2
    assert metrics["protocol"] == {"name": "wmdd (changed)", "hash": protocol_hash(plan.config, metrics["student"])}
    assert set(metrics["seconds"]) == set(STAGES)
    assert all(value > 0 for value in metrics["seconds"].values())
    _, card = unpack((tiny_run.run / "teacher.safetensors").read_bytes())
    assert metrics["teacher"]["top1"] == metrics["full_data"]["top1"] == card["top1"]
    stored = {}
    for path in tiny_run.store.glob("evaluate/*/*/*.json"):
        result = json.loads(path.read_text())
        stored[result["images"], result["seed"]] = result
    assert list(metrics["baselines"]) == ["random", "easiest"]
    for scores in (metrics["distilled"], *metrics["baselines"].values()):
        assert len(scores["runs"]) == 2
        for entry in scores["runs"]:
            result = stored.pop((entry["images"], entry["seed"]))
            assert entry["top1_last"] == result["top1_last"] <= entry["top1_best"] == result["top1_best"]
            assert 0 <= entry["top1_last"] <= entry["top1_best"] <= 1
        last, best = ([entry[f"top1_{kind}"] for entry in scores["runs"]] for kind in ("last", "best"))
        assert scores["top1_last_mean"] == pytest.approx(np.mean(last))
        assert scores["top1_best_mean"] == pytest.approx(np.mean(best))
        assert scores["top1_last_std"] == pytest.approx(np.std(last, ddof=1))
    assert not stored
    best = max(metrics["baselines"].values(), key=lambda scores: scores["top1_last_mean"])
    assert metrics["gain"]["baseline"] == best["top1_last_mean"]
    assert metrics["gain"]["mean"] == metrics["distilled"]["top1_last_mean"] - best["top1_last_mean"]


def test_gain_is_on_the_page_and_in_the_terminal(tiny_run):
    gain = json.loads((tiny_run.run / "metrics.json").read_text())["gain"]
    points, error = 100 * gain["mean"], 100 * gain["standard_error"]
    line = f"gain over the best baseline ({gain['over']}): {points:+.1f} ± {error:.1f} points"
    assert line in tiny_run.result.stdout
    assert f"<b>{line}</b>" in (tiny_run.run / "report.html").read_text()
    for text in (tiny_run.result.stdout, (tiny_run.run / "report.html").read_text()):
        assert "random real, convnet2_w16" in text
        assert "easiest real, convnet2_w16" in text


def test_costs_are_directly_below_the_table_of_accuracies(tiny_run):
    page = (tiny_run.run / "report.html").read_text()
    line = cost_line(json.loads((tiny_run.run / "metrics.json").read_text()))
    assert line.startswith("images 15 kB as pixels, labels ")
    assert line in tiny_run.result.stdout
    accuracy, time = (page.index(f"<h2>{title}</h2>") for title in ("Accuracy", "Time"))
    table = page.index("</table></div>", accuracy) + len("</table></div>")
    assert page[table:].lstrip().startswith(f"<p>Costs: {line}.</p>")
    assert page.count(line) == 1
    assert "Seconds of work, summed over workers; results found in the store count" in page[time:]


def test_manifest_names_every_artifact_of_the_store(tiny_run, plan):
    manifest = json.loads((tiny_run.run / "manifest.json").read_text())
    named = {f"{stage}/{key}" for stage, units in manifest["artifacts"].items() for key in units.values()}
    assert named | {plan.index_ref.folder} == set(commits(tiny_run.store))
    assert manifest["config"] == plan.config.model_dump(mode="json")
    assert {"torch", "python"} <= set(manifest["versions"])
    assert all(set(machine["reasons"]) == {"precision", "compile", "threads"} for machine in manifest["hardware"])
    assert all(machine["deterministic"] for machine in manifest["hardware"])


@pytest.mark.parametrize("stage", ["statistics", "barycenter", "recover", "select"])
def test_artifacts_of_a_class_name_it(tiny_run, plan, stage):
    store = ArtifactStore(str(tiny_run.store))
    for ref in plan.refs(stage):
        value = store.load(ref, KINDS[stage].kind)
        assert value.class_name == plan.index.class_names[value.class_id]
        assert ref.unit.endswith(f"class-{value.class_id:05d}")


def test_soft_labels_name_classes_in_order_of_logits(tiny_run, plan):
    store = ArtifactStore(str(tiny_run.store))
    for ref in plan.refs("relabel"):
        assert tuple(store.load(ref, LabelBlock).meta["class_names"]) == plan.index.class_names


def test_images_are_lossless_png_of_recovered_ones(tiny_run, plan):
    (path,) = (tiny_run.run / "images").glob("*.parquet")
    rows = pq.read_table(path).to_pylist()
    store = ArtifactStore(str(tiny_run.store))
    assert len(rows) == 20
    for class_id, ref in enumerate(plan.refs("recover")):
        stored = store.load(ref, DistilledClass)
        own = rows[2 * class_id : 2 * class_id + 2]
        for pixels, row in zip(stored.images, own, strict=True):
            image = Image.open(io.BytesIO(row["image"]["bytes"]))
            assert (image.format, image.mode, row["label"], row["class_name"]) == (
                "PNG",
                "RGB",
                class_id,
                str(class_id),
            )
            np.testing.assert_array_equal(np.asarray(image), pixels.permute(1, 2, 0).numpy())


def test_report_needs_nothing_beside_it(tiny_run):
    page = (tiny_run.run / "report.html").read_text()
    for found in re.findall(r"""(?:src|href|xlink:href|action|data)\s*=\s*["']([^"']*)["']""", page):
        assert found.startswith(("data:", "#")), found
    assert not re.search(r"""url\(\s*["']?(?!#|["']?#|data:)|@import|<script|<link|<iframe""", page)
    for name in "0123456789":
        assert f"<figcaption>{name}</figcaption>" in page
    # Any letters may stand in an encoded picture.
    assert "NaN" not in re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=\s]*", "", page)


def test_report_and_table_are_titled_by_set_and_size(tiny_run):
    page = (tiny_run.run / "report.html").read_text()
    assert "<title>wmdd: digits, 2 images per class</title>" in page
    assert "<h1>digits: 10 classes, 2 distilled images per class</h1>" in page
    assert "digits, 2 images per class; protocol wmdd" in tiny_run.result.stdout
    assert json.loads((tiny_run.run / "metrics.json").read_text())["subject"] == "digits, 2 images per class"


def test_report_written_again_is_the_same_page(tiny_run):
    page = tiny_run.run / "report.html"
    before, made = page.read_text(), commits(tiny_run.store)
    page.unlink()
    result = call(tiny_run.folder, "report", "runs/digits")
    assert result.returncode == 0, result.stderr
    assert strip_ids(page.read_text()) == strip_ids(before)
    assert commits(tiny_run.store) == made


def test_moved_run_finds_its_store(tiny_run, tmp_path):
    metrics = json.loads((tiny_run.run / "metrics.json").read_text())
    made, moved = tmp_path / "made", tmp_path / "moved"
    shutil.copytree(tiny_run.folder / "runs", made)
    rewrite(str(made / "digits"), str(made / "store"))
    made.rename(moved)
    assert rewrite(str(moved / "digits")).metrics == metrics
    assert json.loads((moved / "digits/run.json").read_text())["store"] == str(moved / "store")
    (moved / "store").rename(tmp_path / "shelf")
    told = call(moved, "report", "digits")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert f"its store is not at {moved}/store;" in told.stderr
    assert "--store URL" in told.stderr
    found = call(moved, "report", "digits", "--store", tmp_path / "shelf")
    assert found.returncode == 0, found.stderr
    with pytest.raises(ConfigError, match="its store is not at /nowhere; give its place"):
        rewrite(str(moved / "digits"), "/nowhere")


def test_run_is_written_again_without_its_teacher_file(tiny_run, tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(tiny_run.run / "teacher.safetensors", teacher)
    committee = ("--relabel.teachers", "convnet1_w8")
    words = ("digits", *TINY, *committee, "--executor", "local", "--pretrain.checkpoint")
    made = run(tmp_path, "distill", *words, teacher, "--run", "made/loaded")
    assert made.returncode == 0, made.stderr
    assert "teacher convnet2_w16, loaded" in made.stdout
    assert re.search(r"labels too: convnet1_w8 +│ 1433 ", made.stdout)  # trained here, on all images
    teacher.rename(tmp_path / "same.safetensors")
    moved = to_run(tmp_path, *words, "same.safetensors", "--run", "made/moved")
    assert not any(moved.values()), "the same content at another place"
    (tmp_path / "same.safetensors").unlink()
    metrics = json.loads((tmp_path / "made/loaded/metrics.json").read_text())
    (tmp_path / "made").rename(tmp_path / "moved")
    assert rewrite(str(tmp_path / "moved/loaded")).metrics == metrics


def test_report_of_an_unfinished_run_says_how_to_go_on(tiny_run, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(tiny_run.run, tmp_path / "digits")
    shutil.copytree(tiny_run.store, store)
    shutil.rmtree(store / "evaluate")
    with pytest.raises(ArtifactError, match=r"is not finished: evaluate of .* is missing; the command that began it"):
        rewrite(str(tmp_path / "digits"), str(store))


def test_failing_store_is_looked_for_elsewhere(tiny_run, tmp_path, monkeypatch):
    run_url, asked, contains = str(tmp_path / "digits"), [], ArtifactStore.__contains__

    def fails(self, ref):
        asked.append(self.url)
        if self.url == "/broken":
            raise StorageError("/broken cannot be read")
        return contains(self, ref)

    shutil.copytree(tiny_run.run, run_url)
    noted = tmp_path / "digits/run.json"
    noted.write_text(json.dumps(json.loads(noted.read_text()) | {"store": "/broken"}))
    monkeypatch.setattr(ArtifactStore, "__contains__", fails)
    with pytest.raises(ConfigError, match=f"its store is not at {tmp_path}/store nor at /broken; give its place"):
        rewrite(run_url)
    assert asked == [f"{tmp_path}/store", "/broken"]
    with pytest.raises(StorageError, match="/broken cannot be read"):
        rewrite(run_url, "/broken")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", "{", "run.json is damaged"),
        ("run.json", "[]", "run.json is damaged"),
        ("config.yaml", "recovery: {}", "config.yaml: recovery: no such option"),
        ("config.yaml", "recover: [", "config.yaml: not YAML"),
    ],
)
def test_damaged_run_is_told_by_its_file(tmp_path, file, text, message):
    (tmp_path / "run.json").write_text('{"store": "/nowhere", "index": "0"}')
    (tmp_path / "config.yaml").write_text("recipe: digits\n")
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"url={tmp_path}: {message}")):
        rewrite(str(tmp_path))


def test_b23_files_of_a_larger_run_are_removed(tiny_run):
    strays = [tiny_run.run / "images/train-00001-of-00002.parquet", tiny_run.run / "labels/part-00099.parquet"]
    for stray in strays:
        stray.write_bytes((tiny_run.run / "images/train-00000-of-00001.parquet").read_bytes())
    assert call(tiny_run.folder, "report", "runs/digits").returncode == 0
    assert [stray.exists() for stray in strays] == [False, False]
    assert len(load_distilled(str(tiny_run.run))) == 20


def test_truncated_images_are_written_again(tiny_run, tmp_path):
    images = tiny_run.run / "images/train-00000-of-00001.parquet"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    told = call(tiny_run.folder, "export", "runs/digits", "--to", tmp_path / "out")
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert "train-00000-of-00001.parquet: is no whole Parquet file; wmdd report" in told.stderr
    assert call(tiny_run.folder, "report", "runs/digits").returncode == 0
    assert images.read_bytes() == whole


def strip_ids(page):
    """Matplotlib salts the identifiers of its pictures and dates them."""
    return re.sub(r"<dc:date>.*?</dc:date>|[#\"][a-z]+[0-9a-f]{8,}|(?:id|href|clip-path)=\"[^\"]*\"", "", page)


def test_second_run_tells_of_no_unit(tiny_run):
    before, told = commits(tiny_run.store), len(news(tiny_run.run))
    words = ("--config", "runs/digits/config.yaml", "--run", "runs/digits", "--executor", "local")
    result = call(tiny_run.folder, "distill", *words)
    assert result.returncode == 0, result.stderr
    fresh = news(tiny_run.run)[told:]
    assert [item["stage"] for item in fresh if item["kind"] == "end"] == list(STAGES)
    assert {item["kind"] for item in fresh} == {"stage", "end"}
    assert commits(tiny_run.store) == before


def test_python_shows_progress_if_asked(tiny_run, capsys):
    assert tiny_run.result.stdout.count("pretrain   1/1 done in") == 1
    config = from_yaml((tiny_run.run / "config.yaml").read_text())
    for options, lines in (({}, 0), ({"progress": True}, len(STAGES)), ({"progress": False}, 0)):
        result = distill(config, run=str(tiny_run.run), executor="local", **options)
        assert capsys.readouterr().out.count("found in the store") == lines
    assert result.metrics == json.loads((tiny_run.run / "metrics.json").read_text())
