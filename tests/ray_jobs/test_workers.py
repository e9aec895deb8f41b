"""Workers before their first task, and whose end is near: what they leave, and how."""

import gc
import threading
from types import SimpleNamespace

import pytest

from ray_jobs import actors, ray_workers
from ray_jobs.resources import Share, Shares
from wmdd import outputs as events
from wmdd.config.distill import DistillConfig, override
from wmdd.stages import STAGES


@pytest.fixture
def raylet(monkeypatch):
    """A stand-in for the raylet that started this process, which may leave; what this process then ends with."""
    gone, ended, codes = threading.Event(), threading.Event(), []

    def end(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(actors.os, "getppid", lambda: 1 if gone.is_set() else 7)
    monkeypatch.setattr(actors.os, "_exit", end)
    monkeypatch.setattr(actors, "WATCH_S", 0.001)
    monkeypatch.setattr(actors, "SAVE_S", 60.0)
    return gone, ended, codes


def at_work():
    """Return the clock of work whose next snapshot is due for nobody but one who asks."""
    clock = events.SnapshotClock()
    clock._next = float("inf")
    return clock


def test_worker_without_raylet_saves_and_ends(raylet):
    gone, ended, codes = raylet
    clock = at_work()
    actors.end_with_raylet()
    assert not clock.is_due()
    gone.set()
    while not clock.is_due():
        assert not ended.is_set()  # without a snapshot
    clock.begin()
    clock.end()
    assert ended.wait(60)
    assert codes == [1]


def test_idle_worker_ends_with_its_raylet(raylet, monkeypatch):
    gone, ended, codes = raylet
    monkeypatch.setattr(events.SnapshotClock, "latest", None)
    actors.end_with_raylet()
    gone.set()
    assert ended.wait(60)
    assert codes == [1]


@pytest.mark.parametrize(
    ("kind", "functions"), [("cpu", [STAGES[name].runs for name in ("barycenter", "select")]), ("main", [])]
)
def test_cpu_worker_imports_libraries_of_its_stages_before_its_first_task(kind, functions, tmp_path, monkeypatch):
    requested = []
    actor = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *args: requested.append(args)))
    monkeypatch.setattr(ray_workers.ray, "remote", lambda **_: lambda cls: actor)
    shares = SimpleNamespace(of_kind=lambda kind: Share(1.0, 0.0))
    config = override(DistillConfig(), {"runtime.compile": "graphs"} if kind == "cpu" else {})
    workers = ray_workers.RayWorkers(config, shares, str(tmp_path), "probe")
    workers._stage_actor(kind)
    for name in ("end_with_raylet", "save_on_sigterm"):
        monkeypatch.setattr(actors, name, lambda: None)
    monkeypatch.setattr(actors, "greet", lambda store, probe: ("node", 1))
    resolved = []
    monkeypatch.setattr(actors.pkgutil, "resolve_name", lambda name: resolved.append((name, gc.isenabled())))
    assert actors.StageActor(*requested[0]).hello() == ("node", 1)
    assert resolved == [(name, False) for name in functions]
    assert gc.isenabled()


@pytest.mark.parametrize(("cpus", "gpus"), [(1.0, 1.0), (4.0, 0.0), (0.25, 0.5)])
def test_present_trainers_never_have_the_same_mark(cpus, gpus, tmp_path, monkeypatch):
    workers = trainers(cpus, gpus, tmp_path, monkeypatch)
    kept = workers._actors[workers.start("train")].bundle
    for number in range(3 * ray_workers.MARKS):
        bundle = workers._actors[workers.start("team")].bundle
        assert cpus - 0.01 <= bundle["CPU"] <= cpus
        assert bundle.get("GPU", 0) == (1 if gpus else 0)
        present = [actor.bundle for actor in workers._actors.values()]
        assert all(present.count(other) == 1 for other in present)
        if number >= ray_workers.MARKS // 2:
            workers._actors.pop(min(set(workers._actors) - {0}))
    assert workers._actors[0].bundle is kept


def test_mark_of_a_trainer_that_is_gone_returns_last(tmp_path, monkeypatch):
    """What it reserved may still appear, and must not be taken for the next one's."""
    workers, bundles = trainers(1.0, 0.0, tmp_path, monkeypatch), []
    for number in range(ray_workers.MARKS + 2):
        workers.start("team")
        bundles.append(workers._actors.pop(number).bundle)
    assert bundles.index(bundles[0], 1) == ray_workers.MARKS
    assert bundles[-2:] == bundles[:2]


@pytest.fixture
def reservations(tmp_path, monkeypatch):
    """Workers, what Ray reserves for them, what was freed of it, and a clock that passes while they sleep."""
    ours = SimpleNamespace(workers=trainers(1.0, 0.0, tmp_path, monkeypatch), now=0.0, present={}, freed=[])
    ours.during_sleep = lambda: None

    def sleep(seconds):
        ours.now += seconds
        ours.during_sleep()

    context = SimpleNamespace(get_job_id=lambda: "01")
    monkeypatch.setattr(ray_workers.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray_workers.ray, "kill", lambda handle: None)
    monkeypatch.setattr(ray_workers, "placement_group_table", lambda: ours.present)
    monkeypatch.setattr(ray_workers, "remove_placement_group", lambda group: ours.freed.append(group.id.hex()))
    monkeypatch.setattr(ray_workers, "time", SimpleNamespace(monotonic=lambda: ours.now, sleep=sleep))
    return ours


@pytest.mark.parametrize("after_s", [0.05, 1.0])
def test_what_a_terminated_trainer_reserves_late_is_freed_too(after_s, reservations):
    """Ray Train may reserve once more, up to a second after it was killed."""
    workers, late = reservations.workers, f"{'0' * 34}01"

    def reserve():
        if reservations.now >= after_s:
            reservations.present[late] = {"bundles": {0: workers._bundles[0]}, "state": "CREATED"}

    reservations.during_sleep = reserve
    workers.terminate(workers.start("train"))
    workers.close()
    assert late in reservations.freed


def test_run_without_a_trainer_that_was_just_killed_ends_at_once(reservations, monkeypatch):
    workers = reservations.workers
    monkeypatch.setattr(workers, "_stage_actor", lambda kind: SimpleNamespace(hello=SimpleNamespace(remote=object)))
    workers.close()
    workers.terminate(workers.start("train"))
    reservations.now = 1.5
    workers.terminate(workers.start("main"))
    workers.close()
    assert reservations.now == 1.5


@pytest.mark.parametrize(("cpus", "marks"), [(0.01, 100), (0.005, 50), (0.0003, 3), (0.00001, 1)])
def test_small_parts_of_a_cpu_have_fewer_marks(cpus, marks, tmp_path, monkeypatch):
    workers = trainers(cpus, 0.0, tmp_path, monkeypatch)
    amounts = [workers._actors[workers.start("team")].bundle["CPU"] for _ in range(marks + 1)]
    assert sorted(set(amounts)) == [part / 10_000 for part in range(1, marks + 1)]


def trainers(cpus, gpus, folder, monkeypatch):
    """Workers that start no processes."""
    workers = ray_workers.RayWorkers(DistillConfig(), Shares(cpus, gpus), str(folder), "probe")
    handle = SimpleNamespace(hello=SimpleNamespace(remote=object))
    monkeypatch.setattr(workers, "_train_actor", lambda bundle: handle)
    return workers
