"""A pool of Ray actors around `run_stage`; a lost actor costs the task in flight, never the run."""

from __future__ import annotations

import collections
import logging
import os
import secrets
from collections.abc import Sequence
from typing import Any

from wmdd.config import DistillConfig
from wmdd.errors import StageError, WmddError
from wmdd.events import Event
from wmdd.pipeline import Listener, raise_failures
from wmdd.plan import StageTask
from wmdd.store import ArtifactStore

logger = logging.getLogger(__name__)
MAX_ATTEMPTS = 3
POLL_S = 0.5


class RayExecutor:
    """Runs tasks on actors of a cluster, or of a Ray of its own on this machine.

    Ray starts with the first task, so that a run that finds everything in the store needs none.

    Args:
        config: its ray and runtime sections are read.
    """

    def __init__(self, config: DistillConfig) -> None:
        self._config = config
        self._actors: list[Any] = []
        self._share: Any = None
        self._store_url = ""
        self._owns_ray = False

    def run(self, stage: str, tasks: Sequence[StageTask], store: ArtifactStore, listener: Listener) -> None:
        """Run all tasks; raise the first failure after the others are finished and saved."""
        self._start(store)
        # A teacher's training uses every core (or GPU) that it finds, so two would only slow each other down.
        size = 1 if stage == "pretrain" else min(self._share.workers, len(tasks))
        while len(self._actors) < size:
            self._actors.append(self._new_actor())
        raise_failures(_Round(self, stage, tasks, size, listener).finish())

    def close(self) -> None:
        """Give the actors back, and stop Ray if it was started here."""
        if self._share is None:
            return
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._owns_ray:
            ray.shutdown()
        self._share = None

    def _start(self, store: ArtifactStore) -> None:
        if self._share is not None:
            return
        from ray_jobs.resources import share_of

        ray = import_ray()
        self._store_url = store.url
        address = self._config.ray.address or os.environ.get("RAY_ADDRESS")
        if not ray.is_initialized():
            self._owns_ray = True
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            if address:
                ray.init(address=address, **options)
            else:
                ray.init(address="local", include_dashboard=False, **options)
        wants_gpu = self._config.runtime.device != "cpu"
        self._share = share_of(self._config.ray, ray.cluster_resources(), wants_gpu=wants_gpu)

    def _new_actor(self) -> Any:
        import ray

        from ray_jobs.actors import StageActor

        options = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus, "max_restarts": 0, "max_task_retries": 0}
        runtime = self._config.runtime.model_dump(mode="json")
        return ray.remote(StageActor).options(**options).remote(self._store_url, runtime, self._share.gpus > 0)

    def replace(self, actor: Any) -> Any:
        """Put a new actor in a dead one's place."""
        import ray

        ray.kill(actor)
        self._actors[self._actors.index(actor)] = fresh = self._new_actor()
        return fresh

    def pool(self, size: int) -> list[Any]:
        """List the first actors of the pool."""
        return self._actors[:size]


class _Round:
    """One stage's tasks on the pool."""

    def __init__(
        self, executor: RayExecutor, stage: str, tasks: Sequence[StageTask], size: int, listener: Listener
    ) -> None:
        self.executor, self.stage, self.listener = executor, stage, listener
        self.todo = collections.deque(tasks)
        self.attempts: collections.Counter[str] = collections.Counter()
        self.idle = executor.pool(size)
        self.running: dict[Any, tuple[Any, StageTask]] = {}
        self.failures: list[StageError] = []

    def finish(self) -> list[StageError]:
        """Run until nothing is left; give the failures."""
        import ray

        while self.todo or self.running:
            while self.todo and self.idle:
                actor, task = self.idle.pop(), self.todo.popleft()
                self.attempts[task.name] += 1
                self.running[actor.run.options(num_returns="streaming").remote(task)] = (actor, task)
            ready, _ = ray.wait(list(self.running), num_returns=1, timeout=POLL_S)
            for stream in ready:
                self._advance(stream)
        return self.failures

    def _advance(self, stream: Any) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        actor, task = self.running[stream]
        try:
            self.listener(ray.get(next(stream)))
        except StopIteration:
            del self.running[stream]
            self.idle.append(actor)
        except RayTaskError as exc:
            del self.running[stream]
            self.idle.append(actor)
            cause = exc.cause if isinstance(exc.cause, WmddError) else None
            self._fail(task, cause if isinstance(cause, StageError) else StageError(self.stage, task.name, str(exc)))
        except RayError as exc:
            del self.running[stream]
            self.idle.append(self.executor.replace(actor))
            if self.attempts[task.name] < MAX_ATTEMPTS:
                self.todo.append(task)
                text = f"a worker died ({type(exc).__name__}); {task.name} starts again on another"
                self.listener(Event("retry", self.stage, task.name, text=text))
            else:
                cause_text = f"its worker died {MAX_ATTEMPTS} times ({type(exc).__name__}); is memory too small?"
                self._fail(task, StageError(self.stage, task.name, cause_text))

    def _fail(self, task: StageTask, error: StageError) -> None:
        self.failures.append(error)
        self.listener(Event("note", self.stage, task.name, text=str(error)))


def import_ray() -> Any:
    """Import Ray with settings that it reads only once.

    Raises:
        WmddError: if Ray is not installed; names the extra and the way without it.
    """
    # Servers listen on loopback only; a token of this process alone keeps other users of the machine out.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as exc:
        raise WmddError(
            "--executor ray: Ray is not installed; pip install 'wmdd[ray]', or use --executor local"
        ) from exc
    return ray
