"""Ray's gauges of a run, which Ray forgets unless they are set again and again."""

import threading
from types import SimpleNamespace

import pytest

from ray_jobs import metrics
from wmdd.engine.events import Event

ray = pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")


class Gauge:
    """Keeps what it is set to, and signals when that is more than a number of times."""

    def __init__(self, enough):
        self.values, self._enough, self.often = [], enough, threading.Event()

    def set(self, value, tags):
        self.values.append((value, tags))
        if len(self.values) >= self._enough:
            self.often.set()


def test_gauges_are_set_again_until_the_run_is_over(monkeypatch):
    done, running, workers = Gauge(4), Gauge(4), Gauge(4)
    instruments = SimpleNamespace(done=done, running=running, workers=workers, seconds=SimpleNamespace(observe=print))
    monkeypatch.setattr(metrics, "_instruments", lambda session: instruments)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    monkeypatch.setattr(metrics, "REFRESH_S", 0.01)
    events = []
    with metrics.metered(events.append) as listen:
        listen(Event("workers", "", metrics={"node-a": 2}))
        listen(Event("begin", "recover", "class-00000"))
        listen(Event("unit", "recover", "class-00000"))
        assert all(gauge.often.wait(60) for gauge in (done, running, workers))
    assert set(map(str, done.values)) == {str((1, {"stage": "recover"}))}
    assert running.values[-1] == (1, {"stage": "recover"})
    assert workers.values[-1] == (2, {"node": "node-a"})
    assert [event.kind for event in events] == ["workers", "begin", "unit"]
    assert "ray-metrics" not in [thread.name for thread in threading.enumerate()]
