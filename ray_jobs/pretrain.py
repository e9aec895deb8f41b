"""Networks, teachers or students, that several workers train together, with Ray Train.

Ray Train places the workers, creates their process group (NCCL on GPUs, Gloo on CPUs), notices when one dies, and
restarts all of them. They run the stage itself (`wmdd.engine.run.run_stage`), whose snapshots in the store are the only
ones: if a worker, the trainer or the driver dies, training resumes from the last one, at the end of an epoch.
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
from ray_jobs.workers import NoRoomError
from wmdd.config.machines import RayConfig, RuntimeConfig
from wmdd.engine.events import Event
from wmdd.engine.run import run_stage, workers_of
from wmdd.engine.task import StageTask
from wmdd.errors import ConfigError, StageError
from wmdd.runtime import Runtime, choose_gpu
from wmdd.storage.store import ArtifactStore

POLL_S = 0.5


@dataclass(frozen=True)
class Training:
    """The arguments of each worker.

    Args:
        probe: name of a note by which a worker checks that it sees the driver's store.
        cpus: that each worker reserved.
        messages: queue of events, and of an error that no retry can pass.
    """

    task: StageTask
    store_url: str
    probe: str
    runtime: RuntimeConfig
    cpus: int
    messages: Any


def train(config: dict[str, Training]) -> None:
    """Run the stage in one of the workers; the first one reports its events and saves."""
    end_with_raylet()
    job, first = config["training"], get_context().get_world_rank() == 0
    store = ArtifactStore(job.store_url)
    try:
        greet(store, job.probe)
        choose_gpu(get_device())
        for event in run_stage(job.task, store, Runtime.create(job.runtime, job.cpus)):
            if first:
                job.messages.put(event)
    except (StageError, ConfigError) as exc:
        if not getattr(exc, "passing", False):
            job.messages.put(exc)  # final: the trainer ends, and the other workers with it
        raise


class Restarts(UserCallback):
    """Reports that workers died."""

    def __init__(self, task: StageTask, messages: Any) -> None:
        self._task, self._messages = task, messages

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Report the first one, with its error."""
        rank, exc = min(worker_exceptions.items())
        text = (
            f"{self._task.name}: rank {rank} of its training failed ({reason(exc)}); all go on from the last snapshot"
        )
        self._messages.put(Event("retry", self._task.stage, self._task.name, text=text))


class TrainActor:
    """Trains networks with workers that it starts, and streams their events as `ray_jobs.actors.StageActor` does.

    Args:
        share: what each of the workers uses.
        bundle: what Ray reserves for each of them.
    """

    def __init__(
        self,
        store_url: str,
        runtime: dict[str, Any],
        probe: str,
        config: RayConfig,
        share: Share,
        bundle: dict[str, float],
    ) -> None:
        end_with_raylet()
        device = "cuda" if share.gpus else "cpu"
        self._runtime = RuntimeConfig.model_validate(runtime).model_copy(update={"device": device})
        self._store, self._probe, self._config = ArtifactStore(store_url), probe, config
        self._share, self._bundle = share, bundle
        # Ray Train passes these to its controller, which reads no others.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.start_timeout_s)
        os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(config.silence_s)

    def hello(self) -> tuple[str, int]:
        """See `ray_jobs.actors.greet`."""
        return greet(self._store, self._probe)

    def run(self, task: StageTask) -> Iterator[Event]:
        """Train, and stream events to the driver.

        Raises:
            NoRoomError: if the workers could not start in time.
            ConfigError: if they see another store.
            StageError: if training failed, also after ``ray.attempts`` attempts.
        """
        messages = Queue(actor_options={"num_cpus": 0})
        thread = ThreadPoolExecutor(1)
        with tempfile.TemporaryDirectory(prefix="wmdd-train-", ignore_cleanup_errors=True) as folder:
            training = thread.submit(self._trainer(task, messages, folder).fit)
            ended = False
            while not ended:
                ended = training.done()  # before the queue is emptied, so that nothing is left in it
                for item in _received(messages):
                    if isinstance(item, Exception):
                        # One worker cannot go on, and the others wait for it. They end with this process, which the
                        # scheduler terminates.
                        raise item
                    yield item
            error = training.exception()
        messages.shutdown(force=True)
        if error is not None:
            raise self._explained(task, error)

    def _trainer(self, task: StageTask, messages: Any, folder: str) -> TorchTrainer:
        workers, with_gpu = workers_of(task), self._share.gpus > 0
        cpus = max(1, int(self._share.cpus))
        training = Training(task, self._store.url, self._probe, self._runtime, cpus, messages)
        return TorchTrainer(
            train,
            train_loop_config={"training": training},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=with_gpu, resources_per_worker=self._bundle),
            torch_config=NodeConfig(timeout_s=int(self._config.silence_s)),
            run_config=RunConfig(
                name=f"wmdd-{uuid.uuid4().hex}",  # a name that was used before would resume its state
                storage_path=folder,
                failure_config=FailureConfig(max_failures=self._config.attempts - 1, controller_failure_limit=0),
                callbacks=[Restarts(task, messages)],
            ),
        )

    def _explained(self, task: StageTask, error: BaseException) -> Exception:
        cause = getattr(error, "controller_failure", None)
        if type(cause).__name__ == "WorkerGroupStartupTimeoutError":
            return NoRoomError(
                f"{task.stage}.workers={workers_of(task)}: they could not start, each with {self._share}, within "
                f"ray.start_timeout_s={self._config.start_timeout_s:g}; ask for less, or give a longer time if nodes "
                "are on their way"
            )
        if not isinstance(error, TrainingFailedError) or cause is not None:
            return StageError(task.stage, task.name, reason(cause or error), passing=True)
        failures = getattr(error, "worker_failures", None) or {0: error}
        errors = [exc for exc in map(_root, failures.values()) if isinstance(exc, StageError)]
        first = errors[0].cause if errors else reason(min(failures.items())[1])
        return StageError(task.stage, task.name, f"its training failed {self._config.attempts} times: {first}")


def _received(messages: Any) -> list[Any]:
    try:
        first = messages.get(timeout=POLL_S)
    except Empty:
        return []
    return [first, *messages.get_nowait_batch(messages.qsize())]


def _root(exc: BaseException) -> BaseException:
    return getattr(exc, "_base_exc", exc)


def reason(exc: BaseException) -> str:
    """Return the cause of an exception of Ray Train in one line."""
    root = getattr(exc, "health_check_failure", None) or _root(exc)
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return f"{type(root).__name__}: {lines[0][:200]}" if lines else type(root).__name__
