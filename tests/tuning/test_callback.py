"""What a search tells while it runs, and when it goes on."""

import warnings
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="the extra wmdd[tune] is not installed")
pytest.importorskip("optuna", reason="the extra wmdd[tune] is not installed")

from ray import tune
from ray.tune.search.optuna import OptunaSearch

from tuning import callback as watch
from tuning.config import TuneConfig
from tuning.tuner import fit
from wmdd.engine.progress import RunProgress


def trial(name, status="PENDING"):
    return SimpleNamespace(trial_id=name, status=status, config={"recover.lr": 0.1}, last_result={"level": 3})


@pytest.fixture
def told(monkeypatch):
    run, events = RunProgress(lambda: 0.0), []
    monkeypatch.setattr(watch, "LISTENERS", [events.append, run])
    monkeypatch.setattr(watch, "OPEN", set())
    monkeypatch.setattr(watch, "ENDED", set())
    return run, events


def test_continued_search_counts_earlier_trials(told):
    run, events = told
    watcher = watch.Watcher(TuneConfig(samples=4))
    trials = [trial("a", "TERMINATED"), trial("b", "TERMINATED"), trial("c"), trial("d")]
    for place in (2, 3):
        watcher.on_trial_start(0, trials, trials[place])
        trials[place].status = "TERMINATED"
        watcher.on_trial_complete(0, trials, trials[place])
    stage = run.stages["tune"]
    assert (stage.first, stage.done, stage.total) == (2, 4, 4)
    assert [event.kind for event in events].count("stage") == 1


def test_trial_that_was_given_up_is_no_open_one(told):
    watcher = watch.Watcher(TuneConfig(samples=1))
    watcher.on_trial_start(0, [trial("a")], trial("a"))
    watcher.on_trial_error(0, [trial("a")], trial("a"))
    assert set() == watch.OPEN  # else the search would end as one that was interrupted


def test_level_that_is_reported_once_more_warns_nobody():
    searcher = OptunaSearch({"x": tune.uniform(0, 1)}, metric="score", mode="max")
    searcher.suggest("a")

    class Tuner:
        def fit(self):
            for _ in range(2):
                searcher.on_trial_result("a", {"score": 0.5, "training_iteration": 1})
            return "results"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        assert fit(Tuner()) == "results"
