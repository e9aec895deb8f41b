"""A student that goes on from a snapshot ends as one that was not interrupted."""

from dataclasses import replace

import pytest

from wmdd.data.load_index import load_index
from wmdd.engine.config_file import read_config
from wmdd.engine.plan import plan_from
from wmdd.engine.run import load_value
from wmdd.outputs import Output, Progress, Snapshot
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.storage.store import ArtifactStore

pytestmark = pytest.mark.slow


def test_interrupted_student_ends_like_undisturbed(tiny_run, monkeypatch):
    monkeypatch.setattr("wmdd.outputs.SnapshotClock.is_due", lambda clock: True)
    config, store = read_config(str(tiny_run.run / "config.yaml")), ArtifactStore(str(tiny_run.store))
    planned = plan_from(config, *load_index(config, store, lambda done, total: None)).units("evaluate")[0]

    def load(name):
        refs = planned.inputs[name]
        return [load_value(ref, store) for ref in refs] if isinstance(refs, tuple) else load_value(refs, store)

    def run(unit):
        return list(
            STAGES["evaluate"].run(config.evaluate, [unit], SeedTree(config.seed), Runtime.create(config.runtime))
        )

    unit = Unit(planned.ref.unit, planned.params, load)
    whole = run(unit)
    snapshots = [news.data for news in whole if isinstance(news, Snapshot)]
    assert len(snapshots) == config.relabel.epochs - 1
    rest = run(replace(unit, resume=snapshots[config.relabel.epochs // 2 - 1]))
    shown = [news.done for news in rest if isinstance(news, Progress)]
    assert shown == [config.relabel.epochs // 2, config.relabel.epochs]
    results = [news.value.to_files() for news in (*whole, *rest) if isinstance(news, Output)]
    assert results[0] == results[1] == store.load(planned.ref, STAGES["evaluate"].kind).to_files()
