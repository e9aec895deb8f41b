"""Searches with a real Ray Tune on scikit-learn's digits."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import commits, environment, run
from searches import WORDS, prepare, short_folder

from tuning.objective import OWN_STAGES, Objective
from wmdd.config.distill import from_yaml, override
from wmdd.config.recipes import recipe
from wmdd.engine.plan import make_plan
from wmdd.errors import ArtifactError
from wmdd.storage.store import ArtifactStore

pytest.importorskip("ray", reason="the extra wmdd[tune] is not installed")
pytest.importorskip("optuna", reason="the extra wmdd[tune] is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("tuning"))


@pytest.fixture
def short():
    with short_folder() as folder:
        yield folder


def test_trial_computes_only_its_own_stages_once(prepared):
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


def test_held_out_images_reach_no_stage_but_students(prepared):
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
