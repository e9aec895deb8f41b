"""Searches with a real Ray Tune on scikit-learn's digits."""

import io
import os
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from conftest import commits, contents, environment, run, start

from tuning.config import TuneConfig, search_config
from tuning.objective import OWN_STAGES, SHARED_STAGES, Objective
from wmdd.config import from_yaml, override
from wmdd.errors import ArtifactError
from wmdd.pipeline import LocalExecutor, run_plan
from wmdd.plan import make_plan
from wmdd.recipes import recipe
from wmdd.store import ArtifactStore

pytest.importorskip("ray", reason="the extra wmdd[tune] is not installed")
pytest.importorskip("optuna", reason="the extra wmdd[tune] is not installed")
pytestmark = pytest.mark.slow

SMALL = {
    "barycenter.ipc": 2,
    "pretrain.model": "convnet2_w16",
    "pretrain.epochs": 4,
    "runtime.train_threads": 1,
    "evaluate.students": ("convnet2_w16",),
    "recover.iterations": 20,
    "relabel.epochs": 12,
    "relabel.epochs_per_block": 3,
}
WORDS = [
    *(word for name, value in SMALL.items() for word in (f"--{name}", value[0] if isinstance(value, tuple) else value)),
    *("--tune.levels", "1:0.5:0.5 1:1:1", "--tune.final", "false", "--ray.cpus_per_actor", "1"),
]
LEVELS = ((1.0, 0.5, 0.5), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A store with what trials share, and an objective on it."""
    url = str(tmp_path_factory.mktemp("tuning") / "store")
    tune = TuneConfig(levels=LEVELS)
    config = search_config(override(recipe("digits"), SMALL), tune)
    plan = make_plan(config, ArtifactStore(url))
    shared = replace(plan, tasks={stage: plan.tasks[stage] for stage in SHARED_STAGES})
    run_plan(shared, ArtifactStore(url), LocalExecutor(config.runtime), lambda event: None)
    return Objective(config, tune, url, plan.index_ref, gpu=False)


def test_trial_makes_nothing_shared_and_a_repeated_one_makes_nothing(prepared):
    store = Path(prepared.store_url)
    before = commits(store)
    first = list(prepared.climb({"recover.bn_weight": 3.0}))
    made = commits(store)
    assert [report["level"] for report in first] == [1, 2]
    assert first[0]["cost_s"] < first[1]["cost_s"]
    assert {name.split("/")[0] for name in made.keys() - before.keys()} == set(OWN_STAGES)
    assert before.items() <= made.items()
    assert list(prepared.climb({"recover.bn_weight": 3.0})) == first
    assert commits(store) == made


def test_trial_without_what_it_shares_says_so(prepared, tmp_path):
    config = override(prepared.config, {"pretrain.lr": 0.123})
    plan = make_plan(config, ArtifactStore(str(tmp_path)))
    with pytest.raises(ArtifactError, match="pretrain of teacher is missing"):
        list(Objective(config, prepared.tune, str(tmp_path), plan.index_ref, gpu=False).climb({}))
    assert {name.split("/")[0] for name in commits(tmp_path)} == {"index"}


def test_setting_that_diverges_scores_nothing(prepared):
    *_, last = prepared.climb({"recover.lr": 1e38, "recover.feature_weight": 1e38})
    assert (last["score"], last["level"]) == (0.0, 1)
    assert "not finite" in last["failed"]


def test_held_out_images_reach_neither_statistics_nor_recovery(prepared):
    store = ArtifactStore(prepared.store_url)
    whole = make_plan(override(prepared.config, {"data.holdout": 0.0}), store).index
    plan = prepared.plan({}, 1)
    assert {unit.inputs["index"] for stage in ("pretrain", "statistics") for unit in plan.units(stage)} == {
        plan.index_ref
    }
    assert {unit.inputs["index"] for unit in plan.units("recover")} == {plan.index_ref}
    held = set(plan.index.val.row)
    assert held < set(whole.train.row)
    assert not held & set(plan.index.train.row)
    assert not held & set(whole.val.row)


def test_search_finds_what_a_grid_finds(prepared, tmp_path, short):
    """Weights far too high drown the other terms; the search must not end there."""
    grid = {weight: list(prepared.climb({"recover.bn_weight": weight}))[-1] for weight in (0.01, 1.0, 100.0, 1e5)}
    best = max(report["score"] for report in grid.values())
    spread = max(report["spread"] for report in grid.values())
    words = ("tune", "digits", *WORDS, "recover.bn_weight=loguniform:0.01:100000", "--tune.samples", 6)
    result = run(tmp_path, *words, "--run", "t", "--store", prepared.store_url, env=environment(RAY_TMPDIR=short))
    assert result.returncode == 0, result.stderr
    rows = pq.read_table(io.BytesIO((tmp_path / "t/trials.parquet").read_bytes())).to_pylist()
    assert len(rows) == 6
    assert rows[0]["recover.bn_weight"] == recipe("digits").recover.bn_weight  # the recipe's own is tried first
    finished = [row for row in rows if row["stop"] == "finished"]
    assert max(row["score"] for row in finished) > best - 2 * spread - 0.02
    assert all(row["level"] == 1 for row in rows if row["stop"] == "stopped at level 1")
    winner = max(finished, key=lambda row: row["score"])
    config = from_yaml((tmp_path / "t/best.yaml").read_text())
    assert config.recover.bn_weight == winner["recover.bn_weight"]
    assert config.data.holdout == 0.0
    assert "tune       6/6 done in" in result.stdout
    page = (tmp_path / "t/tune.html").read_text()
    assert "<svg" in page
    assert page.count("data:image/png") >= 10


@pytest.fixture
def short():
    folder = tempfile.mkdtemp(prefix="rt")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_search_that_is_interrupted_says_so_and_goes_on_with_the_same_words(prepared, tmp_path, short):
    words = ("tune", "digits", *WORDS, "--recover.iterations", 150, "--tune.samples", 3, "--tune.stop_early", "false")
    words += ("--run", tmp_path / "t", "--store", prepared.store_url)
    log, limit = tmp_path / "out", time.monotonic() + 120
    with open(log, "w") as out:
        process = start(tmp_path, *words, env=environment(RAY_TMPDIR=short), stdout=out)
    try:
        while "tune: level" not in log.read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said.splitlines()[-1]
    assert not (tmp_path / "t/best.yaml").exists()
    result = run(tmp_path, *words, env=environment(RAY_TMPDIR=short))
    assert result.returncode == 0, result.stderr
    rows = pq.read_table(io.BytesIO((tmp_path / "t/trials.parquet").read_bytes())).to_pylist()
    assert [row["stop"] for row in rows] == ["finished"] * 3


def test_killed_worker_and_killed_driver_lose_no_trial_and_failures_do_not_end_it(prepared, tmp_path, short):
    words = ("tune", "digits", *WORDS, "recover.lr=choice:0.1,1e38", "recover.feature_weight=choice:1,1e38")
    words += ("--recover.iterations", 300, "--relabel.epochs", 24)  # long enough to be hit
    words += ("--tune.samples", 4, "--tune.concurrent", 1, "--run", tmp_path / "t", "--store", prepared.store_url)
    log, killed, limit = tmp_path / "out", False, time.monotonic() + 120
    with open(log, "w") as out:
        process = start(tmp_path, *words, env=environment(RAY_TMPDIR=short), stdout=out)
    try:
        while log.read_text().count("tune: level") < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, log.read_text()
            if "tune: level" in log.read_text() and not killed:
                for worker in psutil.Process(process.pid).children(recursive=True):
                    if worker.cmdline()[:1] and "ImplicitFunc" in worker.cmdline()[0]:
                        os.kill(worker.pid, signal.SIGKILL)
                        killed = True
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
    process.communicate()
    assert killed
    psutil.wait_procs(family, timeout=30)
    before = contents(prepared.store_url)
    result = run(tmp_path, "tune", "--resume", tmp_path / "t", env=environment(RAY_TMPDIR=short))
    assert result.returncode == 0, result.stderr
    assert "goes on" in result.stdout
    assert before.items() <= contents(prepared.store_url).items()
    rows = pq.read_table(io.BytesIO((tmp_path / "t/trials.parquet").read_bytes())).to_pylist()
    assert len(rows) == 4
    assert all(row["score"] == 0 for row in rows if row["stop"].startswith("recover of"))
    again = run(tmp_path, *words, "--tune.seed", 9, env=environment(RAY_TMPDIR=short))
    assert again.returncode == 2
    assert "holds another search (--tune.seed differs)" in again.stderr
