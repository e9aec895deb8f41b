"""What a search leaves in the notes of its store: nothing of trials that are over, and all that it may go on from."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra wmdd[tune] is not installed")

from searches import prepare

from tuning import tuner
from tuning.trials import Trial
from wmdd.storage.folder import Folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("tuning"))


def climbed(objective, bn_weight, *, levels=1, is_open=False):
    """A trial that ended at a level."""
    reports = objective.climb({"recover.bn_weight": bn_weight})
    scores = tuple(next(reports)["score"] for _ in range(levels))
    return Trial({"recover.bn_weight": bn_weight}, scores, 0.1, 1.0, "", 0.0, 2, is_open)


def snapshots(objective):
    return {path.name for path in Path(objective.store_url, "notes").glob("resume-*")}


def test_only_trials_that_may_go_on_keep_their_snapshots(prepared):
    failed = climbed(prepared, 2.0, is_open=True)
    kept = snapshots(prepared)
    assert len(kept) == len(prepared.plan({}, 0).tasks["recover"])
    stopped = climbed(prepared, 3.0)
    assert len(snapshots(prepared)) == 2 * len(kept)
    tuner.drop_snapshots([failed, stopped, climbed(prepared, 4.0, levels=2)], prepared)
    assert snapshots(prepared) == kept
    list(prepared.climb(failed.values))
    assert snapshots(prepared) == set()


def test_snapshot_that_an_open_trial_shares_stays(prepared):
    failed = climbed(prepared, 6.0, is_open=True)
    kept = snapshots(prepared)
    tuner.drop_snapshots([failed, replace(failed, is_open=False)], prepared)
    assert snapshots(prepared) == kept != set()
    tuner.drop_snapshots([replace(failed, is_open=False)], prepared)
    assert snapshots(prepared) == set()


def test_interrupted_search_keeps_all_snapshots(prepared, tmp_path, monkeypatch):
    climbed(prepared, 5.0)
    before = snapshots(prepared)
    monkeypatch.setattr(tuner, "_tuner", lambda *arguments: None)
    monkeypatch.setattr(tuner, "fit", lambda tuner: [])
    with pytest.raises(KeyboardInterrupt):
        tuner.run_trials(prepared, {}, Folder(str(tmp_path)), lambda event: None)
    assert snapshots(prepared) == before != set()
