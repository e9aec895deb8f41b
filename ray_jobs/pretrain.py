"""Teachers that several workers train together, with Ray Train.

Ray Train places the workers, makes their process group (NCCL on GPUs, Gloo on CPUs), sees when one dies, and starts
all of them again. What they run is the stage itself (`wmdd.engine.run.run_stage`). Its snapshots in the store are the
only ones: whatever dies, be it a worker, the trainer or the driver, training goes on after the last whole epoch.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback, get_context
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Empty, Queue

from ray_jobs.actors import end_with_raylet, greet
from ray_jobs.rendezvous import NodeConfig
from ray_jobs.resources import Share
from wmdd.config.sections import RayConfig, RuntimeConfig
from wmdd.engine.events import Event
from wmdd.engine.plan import StageTask
from wmdd.engine.run import run_stage
from wmdd.errors import ConfigError, StageError
from wmdd.runtime import Runtime, choose_gpu
from wmdd.storage.store import ArtifactStore

HEAR_S = 0.5


@dataclass(frozen=True)
class Training:
    """What every one of the workers gets.

    Args:
        probe: name of a note by which a worker tells that it sees the driver's store.
        cpus: that each of them reserved.
        news: queue of events, and of the error that no other try can mend.
    """

    task: StageTask
    store_url: str
    probe: str
    runtime: RuntimeConfig
    cpus: int
    news: Any


def train(config: dict[str, Training]) -> None:
    """Run the stage in one of the workers; the first tells the news and saves."""
    end_with_raylet()
    job, first = config["training"], get_context().get_world_rank() == 0
    store = ArtifactStore(job.store_url)
    try:
        greet(store, job.probe)
        choose_gpu(get_device())
        for event in run_stage(job.task, store, Runtime.create(job.runtime, job.cpus)):
            if first:
                job.news.put(event)
    except (StageError, ConfigError) as exc:
        if not getattr(exc, "passing", False):
            job.news.put(exc)  # final: the trainer ends, and the other workers with it
        raise


class Restarts(UserCallback):
    """Tells that workers died."""

    def __init__(self, task: StageTask, news: Any) -> None:
        self._task, self._news = task, news

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Say which, and why."""
        rank, exc = min(worker_exceptions.items())
        text = f"{self._task.name}: rank {rank} of its training failed ({reason(exc)}); all go on from the last epoch"
        self._news.put(Event("retry", self._task.stage, self._task.name, text=text))


class TrainActor:
    """Trains teachers with workers of its own, and streams their news as `ray_jobs.actors.StageActor` does.

    Args:
        workers: that train together.
        share: what each of them reserves.
    """

    def __init__(
        self, store_url: str, runtime: dict[str, Any], probe: str, config: RayConfig, workers: int, share: Share
    ) -> None:
        end_with_raylet()
        device = "cuda" if share.gpus else "cpu"
        self._runtime = RuntimeConfig.model_validate(runtime).model_copy(update={"device": device})
        self._store, self._probe, self._config = ArtifactStore(store_url), probe, config
        self._workers, self._share = workers, share
        # Ray Train hands these on to its controller, which reads them only there.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.start_timeout_s)
        os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(config.silence_s)

    def hello(self) -> tuple[str, int]:
        """Give the id of the node that this actor is on, and that of its process.

        Raises:
            ConfigError: if the store here is not the driver's.
        """
        return greet(self._store, self._probe)

    def run(self, task: StageTask) -> Iterator[Event]:
        """Train, streaming events to the driver.

        Raises:
            ConfigError: if the workers could not start, or see another store.
            StageError: if training failed, also after as many starts as ``ray.attempts`` allows.
        """
        news = Queue(actor_options={"num_cpus": 0})
        thread = ThreadPoolExecutor(1)
        with tempfile.TemporaryDirectory(prefix="wmdd-train-", ignore_cleanup_errors=True) as folder:
            training = thread.submit(self._trainer(task, news, folder).fit)
            over = False
            while not over:
                over = training.done()  # asked before the queue is emptied, so that nothing is left in it
                for item in _heard(news):
                    if isinstance(item, Exception):
                        # One worker cannot go on, and the others wait for it. They end with this process, which the
                        # pool ends.
                        raise item
                    yield item
            error = training.exception()
        news.shutdown(force=True)
        if error is not None:
            raise self._told(task, error)

    def _trainer(self, task: StageTask, news: Any, folder: str) -> TorchTrainer:
        needs = {"CPU": self._share.cpus} | ({"GPU": self._share.gpus} if self._share.gpus else {})
        return TorchTrainer(
            train,
            train_loop_config={"training": self._training(task, news)},
            scaling_config=ScalingConfig(
                num_workers=self._workers, use_gpu=self._share.gpus > 0, resources_per_worker=needs
            ),
            torch_config=NodeConfig(timeout_s=int(self._config.silence_s)),
            run_config=RunConfig(
                name=f"wmdd-{uuid.uuid4().hex}",  # a name that was there before would go on from its own state
                storage_path=folder,
                failure_config=FailureConfig(max_failures=self._config.attempts - 1, controller_failure_limit=0),
                callbacks=[Restarts(task, news)],
            ),
        )

    def _training(self, task: StageTask, news: Any) -> Training:
        return Training(task, self._store.url, self._probe, self._runtime, max(1, int(self._share.cpus)), news)

    def _told(self, task: StageTask, error: BaseException) -> Exception:
        cause = getattr(error, "controller_failure", None)
        if type(cause).__name__ == "WorkerGroupStartupTimeoutError":
            return ConfigError(
                f"pretrain.workers={self._workers}: so many, of {self._share}, could not start within "
                f"ray.start_timeout_s={self._config.start_timeout_s:g}; ask for less, or give a longer time if nodes "
                "are on their way"
            )
        if not isinstance(error, TrainingFailedError) or cause is not None:
            return StageError(task.stage, task.name, reason(cause or error), passing=True)
        failures = getattr(error, "worker_failures", None) or {0: error}
        told = [exc for exc in map(_root, failures.values()) if isinstance(exc, StageError)]
        first = told[0].cause if told else reason(min(failures.items())[1])
        return StageError(task.stage, task.name, f"its training failed {self._config.attempts} times: {first}")


def _heard(news: Any) -> list[Any]:
    try:
        first = news.get(timeout=HEAR_S)
    except Empty:
        return []
    return [first, *news.get_nowait_batch(news.qsize())]


def _root(exc: BaseException) -> BaseException:
    return getattr(exc, "_base_exc", exc)


def reason(exc: BaseException) -> str:
    """Say in a line what an exception of Ray Train comes from."""
    root = getattr(exc, "health_check_failure", None) or _root(exc)
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return f"{type(root).__name__}: {lines[0][:200]}" if lines else type(root).__name__
