"""Workers that do not start: when to try again, and when to end the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ray_jobs.workers import Workers
from wmdd.config.machines import RayConfig
from wmdd.engine.events import Event
from wmdd.errors import ConfigError, WmddError

BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
MAX_FAILURES = 8  # in a row, while no worker is ready
BUSY_FACTOR = 10  # times the limit, if a node could hold a worker: the nodes may be busy or slow


class Starts:
    """The starts of workers that failed, and the time for which tasks have waited for one."""

    def __init__(self, backend: Workers, config: RayConfig, listener: Callable[[Event], None]) -> None:
        self._backend, self._limit_s, self._listener = backend, config.start_timeout_s, listener
        self._failures = 0
        self._paused_until = 0.0
        self._waiting_since: float | None = None
        self._has_warned = False

    def are_paused(self) -> bool:
        """Whether no worker may be started yet, because the last one failed to start."""
        return self._backend.now() < self._paused_until

    def succeed(self) -> None:
        """Forget the failures: a worker is ready."""
        self._failures = 0

    def fail(
        self, reason: str, any_ready: bool, max_failures: int = MAX_FAILURES, error: WmddError | None = None
    ) -> None:
        """Pause the starts after a failure, longer each time.

        Raises:
            WmddError: after `max_failures` in a row while no worker is ready; `error`, if one is given.
        """
        is_same_wave = self.are_paused()  # it was started together with the last one that failed
        self._failures += not is_same_wave
        if self._failures >= max_failures and not any_ready:
            raise error or WmddError(f"{self._failures} times in a row no worker started: {reason}")
        if not is_same_wave:
            pause = min(MAX_BACKOFF_S, BACKOFF_S * 2**self._failures)
            self._paused_until = self._backend.now() + pause
            self._note(f"a worker did not start ({reason}); another is tried in {pause:g} s")

    def waited_s(self, is_waiting: bool) -> float:
        """Return for how long tasks have waited while no task ran."""
        if not is_waiting:
            self._waiting_since, self._has_warned = None, False
            return 0.0
        now = self._backend.now()
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        return now - self._waiting_since

    def check(self, waited_s: float, kinds: Iterable[str]) -> None:
        """Note once that workers take long to start.

        Raises:
            ConfigError: if none has started for too long.
        """
        limit, fits = self._limit_s, any(map(self._backend.capacity, kinds))
        if waited_s > limit * (BUSY_FACTOR if fits else 1):
            raise ConfigError(
                f"ray.start_timeout_s={limit:g}: no worker could start in {waited_s:.0f} s "
                f"({self._backend.describe()}); ask for less, or give a longer time if nodes are on their way"
            )
        if waited_s > limit and not self._has_warned:
            self._has_warned = True
            text = f"no worker has started for {limit:g} s ({self._backend.describe()}): the nodes may be busy"
            self._note(f"{text}; the run keeps waiting")

    def _note(self, text: str) -> None:
        self._listener(Event("note", "", text=text))
