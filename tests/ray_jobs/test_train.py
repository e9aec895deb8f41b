"""Networks that Ray Train lets several workers train: equal to plain processes, whatever is killed meanwhile."""

import contextlib
import os
import shutil
import signal
import time

import psutil
import pytest
import torch
from conftest import TINY, contents
from gloo_ranks import on_ranks
from image_files import folder
from striking import LOOPBACK, listens, process_of

from ray_jobs.executor import RayExecutor
from wmdd.commands.distill import distill
from wmdd.config.distill import override
from wmdd.config.machines import RuntimeConfig
from wmdd.data.load_index import load_index
from wmdd.engine.config_file import read_config
from wmdd.engine.plan import plan_from
from wmdd.engine.run import LocalExecutor, run_stage
from wmdd.errors import ConfigError, StageError
from wmdd.runtime import Runtime
from wmdd.stages import STAGES
from wmdd.storage.store import ArtifactStore

ray = pytest.importorskip("ray", reason="the extra wmdd[ray] is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow]
assert "--runtime.train_threads" in TINY  # plain processes get as many threads as Ray's


@pytest.fixture
def config(tiny_run):
    return override(read_config(str(tiny_run.run / "config.yaml")), {"pretrain.workers": 2})


def planned(config, url):
    store = ArtifactStore(url)
    return plan_from(config, *load_index(config, store, lambda done, total: None))


def in_a_group(config, url):
    """Run the pretraining as one of the processes of a group."""
    task = planned(config, url).tasks["pretrain"][0]
    return [event.kind for event in run_stage(task, ArtifactStore(url), Runtime.create(config.runtime))]


def teachers(url):
    return {name: data for name, data in contents(url).items() if name[0] == "pretrain"}


def processes(name):
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline() and name in child.cmdline()[0]:
                found.append(child)
    return found


def gone(name):
    limit = time.monotonic() + 60
    while processes(name):
        assert time.monotonic() < limit, f"{name} is left"
        time.sleep(0.1)


def all_is_free():
    """What a trainer reserved is given back: the next one would wait for it."""
    limit = time.monotonic() + 60
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < limit, (ray.available_resources(), ray.util.placement_group_table())
        time.sleep(0.1)


def test_killed_rank_and_trainer_do_not_change_teacher(cluster, config, tmp_path):
    url, events, struck, listening = str(tmp_path / "store"), [], [], set()
    planned(config, str(tmp_path / "plain"))
    on_ranks(2, in_a_group, config, str(tmp_path / "plain"))

    def strike(event):
        """Kill a rank after the first epoch, and the trainer while it starts the ranks again."""
        events.append(event)
        if event.stage == "pretrain" and (event.kind, len(struck)) in (("progress", 0), ("retry", 1)):
            victims = processes("ray::TrainActor") if struck else processes("RayTrainWorker")
            listening.update(address for process in processes("RayTrainWorker") for address in listens(process))
            struck.append((event.kind, len(victims)))
            os.kill(victims[-1].pid, signal.SIGKILL)

    plan, executor = planned(config, url), RayExecutor(config)
    board = executor.run(plan.tasks["pretrain"], plan.refs("pretrain"), ArtifactStore(url), strike)
    executor.close()
    assert not board.failures
    assert struck == [("progress", 2), ("retry", 1)]
    retries = [event.text for event in events if event.kind == "retry" and event.stage == "pretrain"]
    assert len(retries) == 2
    assert "of its training failed" in retries[0]
    assert "all go on from the last snapshot" in retries[0]
    assert "its worker on" in retries[1]
    steps = [event.done for event in events if event.kind == "progress" and event.stage == "pretrain"]
    assert steps[-1] == config.pretrain.epochs
    assert len(steps) <= config.pretrain.epochs + 2  # one epoch at most is repeated for each that was killed
    assert teachers(url) == teachers(tmp_path / "plain") != {}
    # A writer that was killed may leave a part, which nobody reads.
    assert not [path for path in (tmp_path / "store/notes").glob("resume-*") if path.suffix != ".part"]
    assert "127.0.0.1" in listening
    assert listening <= LOOPBACK
    gone("RayTrainWorker")
    all_is_free()


def test_students_of_two_workers_score_as_those_of_one(cluster, config, tiny_run, tmp_path):
    """A rank of one student is killed, and its trainer while it starts the ranks again; another student trains too."""
    together, url = override(config, {"pretrain.workers": 1, "evaluate.workers": 2}), str(tmp_path / "store")
    events, struck = [], []
    shutil.copytree(tiny_run.store, tmp_path / "store")
    shutil.rmtree(tmp_path / "store/evaluate")
    alone = ArtifactStore(str(tiny_run.store))

    def strike(event):
        events.append(event)
        if event.kind == "progress" and not struck:
            struck.append("rank")
            os.kill(min(processes("RayTrainWorker"), key=psutil.Process.create_time).pid, signal.SIGKILL)
        elif event.kind == "retry" and struck == ["rank"]:
            struck.append("trainer")
            begun = next(other for other in events if (other.kind, other.unit) == ("begin", event.unit))
            with contextlib.suppress(ProcessLookupError):  # it may have ended with its task
                os.kill(process_of(begun), signal.SIGKILL)

    plan, executor = planned(together, url), RayExecutor(together)
    tasks = plan.tasks["evaluate"][:2]
    refs = [task.units[0].ref for task in tasks]
    board = executor.run(tasks, refs, ArtifactStore(url), strike)
    executor.close()
    assert not board.failures
    assert struck == ["rank", "trainer"]
    assert {event.unit for event in events if event.kind == "done"} == {task.name for task in tasks}
    for ref in refs:
        one, two = (store.load(ref, STAGES["evaluate"].kind) for store in (alone, ArtifactStore(url)))
        assert [point["epoch"] for point in two.curve] == [point["epoch"] for point in one.curve]
        assert [point["loss"] for point in two.curve] == pytest.approx([p["loss"] for p in one.curve], rel=0.05)
        assert two.top1_last == pytest.approx(one.top1_last, abs=0.1)
    gone("RayTrainWorker")
    all_is_free()


def test_final_error_of_one_rank_ends_training_at_once(cluster, config, tmp_path, monkeypatch):
    """The others wait in a sum over all ranks, and would for ``ray.silence_s``."""
    from ray_jobs.ray_workers import RayWorkers

    closed, close = [], RayWorkers.close
    monkeypatch.setattr(RayWorkers, "close", lambda self: (closed.append(self), close(self)))
    paths = [f"{split}/{name}/{i}.png" for split, n in (("train", 12), ("val", 2)) for name in "ab" for i in range(n)]
    changes = {"data.path": folder(tmp_path / "set", *paths), "runtime.memory_gib": 0.0, "pretrain.batch_size": 4}
    streamed, url, events = override(config, changes), str(tmp_path / "store"), []
    plan, executor = planned(streamed, url), RayExecutor(streamed)
    (tmp_path / "set/train/a/3.png").write_bytes(b"damaged")
    board = executor.run(plan.tasks["pretrain"], plan.refs("pretrain"), ArtifactStore(url), events.append)
    executor.close()
    (failure,) = board.failures
    assert closed, "Ray Train may reserve once more after it was killed"
    assert (failure.stage, failure.unit) == ("pretrain", "teacher")
    assert "train/a/3.png has changed since the set was indexed" in failure.cause
    assert [event.kind for event in events].count("failed") == 1
    gone("RayTrainWorker")
    all_is_free()


def test_divergence_is_final(config, tmp_path, monkeypatch):
    import queue
    from types import SimpleNamespace

    from ray_jobs import pretrain

    monkeypatch.setattr(pretrain, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    monkeypatch.setattr(pretrain, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(pretrain, "greet", lambda store, probe: None)
    hopeless = override(config, {"pretrain.lr": 1e30, "pretrain.epochs": 1, "pretrain.workers": 1})
    task, messages = planned(hopeless, str(tmp_path / "store")).tasks["pretrain"][0], queue.Queue()
    with pytest.raises(StageError):
        pretrain.train({"training": pretrain.Training(task, f"{tmp_path}/store", "", hopeless.runtime, 1, messages)})
    (error,) = messages.queue
    assert not error.passing
    assert "loss is not finite in epoch 1; lower the learning rate" in str(error)


def test_more_workers_than_the_cluster_has_is_one_line(cluster, config, tmp_path):
    from ray_jobs.pretrain import TrainActor
    from ray_jobs.resources import Share
    from ray_jobs.workers import NoRoomError

    store, runtime = ArtifactStore(str(tmp_path / "store")), config.runtime.model_dump(mode="json")
    task = planned(override(config, {"pretrain.workers": 7}), store.url).tasks["pretrain"][0]
    impatient = config.ray.model_copy(update={"start_timeout_s": 3})
    with pytest.raises(NoRoomError, match=r"^pretrain\.workers=7: .*ray\.start_timeout_s=3; ask for less") as caught:
        list(TrainActor(store.url, runtime, "probe", impatient, Share(1.0, 0.0), {"CPU": 1.0}).run(task))
    assert "\n" not in str(caught.value)


def test_several_workers_without_ray_are_refused(config, tmp_path):
    with pytest.raises(ConfigError, match=r"pretrain\.workers=2: .*use executor=ray"):
        distill(config, run=str(tmp_path / "run"), executor=LocalExecutor(RuntimeConfig(device="cpu")))
