"""The numbers of a run are there after a crash, and a folder that cannot be written ends no run."""

import json
import uuid

import fsspec
import pytest

from wmdd.engine.events import Event
from wmdd.engine.metrics_file import MetricsFile


def units(*names):
    return [Event("unit", "recover", name, metrics={"seconds": 1.0}) for name in names]


def told(url):
    with fsspec.open(f"{url}/metrics.jsonl", "rt") as file:
        return [json.loads(line) for line in file.read().splitlines()]


@pytest.fixture(params=["local", "memory"])
def url(request, tmp_path):
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def test_sessions_follow_each_other_in_one_file(url):
    for session in (("a", "b"), ("c",)):
        metrics = MetricsFile(url)
        for event in units(*session):
            metrics(event)
        metrics.close()
    lines = told(url)
    assert [line["unit"] for line in lines] == ["a", "b", "c"]
    assert lines[0]["metrics"] == {"seconds": 1.0}


def test_events_of_a_finished_stage_survive_a_crash(url):
    metrics = MetricsFile(url)
    for event in (*units("a"), Event("end", "recover"), *units("b")):
        metrics(event)
    assert [line.get("unit") for line in told(url)][:2] == ["a", None]  # no close: the process was killed


def test_far_file_is_not_sent_again_for_every_event(monkeypatch):
    metrics, sent = MetricsFile(f"memory://{uuid.uuid4().hex}"), []
    monkeypatch.setattr(type(metrics._folder.fs), "pipe_file", lambda self, path, data: sent.append(len(data)))
    for event in units(*map(str, range(1000))):
        metrics(event)
    assert len(sent) <= 1
    metrics.close()
    assert sent


def test_unwritable_metrics_file_is_logged_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    metrics = MetricsFile(str(tmp_path / "file" / "run"))
    for event in units("a", "b", "c"):
        metrics(event)
    metrics.close()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["metrics.jsonl"]
