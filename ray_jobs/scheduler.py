"""Runs a board of tasks on workers that come, go, hang and die. Knows no Ray: a crew hires, gives and hears.

The rules: a task whose worker dies or falls silent is tried again elsewhere, a bounded number of times; a node that
leaves takes no attempt from the tasks it held; an error of the method itself is final; an idle worker runs a second
copy of a task that takes far longer than its like, and the first to finish wins. Tasks write content-keyed, atomic
artifacts, so that running one twice is harmless.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import statistics
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

from ray_jobs.workers import Crew, News
from wmdd.config.sections import RayConfig
from wmdd.engine.board import Board
from wmdd.engine.events import Event
from wmdd.engine.plan import StageTask
from wmdd.errors import ConfigError, StageError, WmddError
from wmdd.process.interruptions import SAVE_S

POLL_S = 0.5
MAX_LOSSES = 20  # of one task with nodes that left: a bound, so that nothing goes round for ever
MAX_SPAWN_FAILURES = 8  # times in a row, where nobody else works
MAX_UNFIT = 3  # the same, of workers that say themselves why they cannot work
BACKOFF_S = 0.5
MAX_HIRING_PAUSE_S = 30.0
BUSY_FACTOR = 10  # nodes that could hold a worker are waited for so much longer: they are busy, or slow
SPECULATE_AFTER_S = 20.0  # a second copy of something short costs more than waiting for it
FEWER = "; is memory too small? --ray.actors 1, or --executor local, needs less"
Key = tuple[str, str]


@dataclass(eq=False)
class _Worker:
    lane: str
    since: float
    node: str | None = None
    pid: int = 0
    task: StageTask | None = None
    heard: float = 0.0

    @property
    def name(self) -> str:
        """Where to find it."""
        return f"{self.node} (process {self.pid})" if self.pid else f"{self.node}"


@dataclass(eq=False)
class _Record:
    """What is known of a task under way."""

    attempts: int = 0
    losses: int = 0
    begun: float = 0.0
    ends_soon: bool = False  # it said that it is in its last step
    workers: set[int] = field(default_factory=set)


class Pool:
    """One run's board on a crew.

    Args:
        limits: workers by lane; 0 or absent: as many as fit.
        solo: lanes whose tasks run alone, with nothing beside them, on a worker of the lane they are mapped to.
        early: lanes whose workers start while the tasks are under way that theirs wait for: cheap workers, for whom
            dear ones would have to wait. Those of other lanes start when their tasks under way are in the last step.
        grows: more nodes may come when workers wait for them: as many are asked for again as the nodes hold.
    """

    def __init__(
        self,
        crew: Crew,
        config: RayConfig,
        listener: Callable[[Event], None],
        *,
        limits: Mapping[str, int] | None = None,
        solo: Mapping[str, str] | None = None,
        early: Container[str] = (),
        grows: bool = False,
    ) -> None:
        self._crew, self._config, self._listener = crew, config, listener
        self._limits, self._solo, self._early, self._grows = dict(limits or {}), dict(solo or {}), early, grows
        self._workers: dict[int, _Worker] = {}
        self._idle: dict[str, list[int]] = collections.defaultdict(list)
        self._spawn_failures = 0
        self._hire_from = 0.0
        self._waiting_since: float | None = None
        self._told_waiting = False

    def run(self, board: Board) -> None:
        """Run until nothing on the board is left.

        Raises:
            ConfigError: when no worker can start; what is finished is kept.
        """
        try:
            self._run(board)
        except KeyboardInterrupt:
            self._crew.save([number for number, worker in self._workers.items() if worker.task], SAVE_S)
            raise

    def _run(self, board: Board) -> None:
        self._board = board
        self._records: dict[Key, _Record] = collections.defaultdict(_Record)
        self._running: dict[Key, StageTask] = {}
        self._times: dict[str, list[float]] = collections.defaultdict(list)
        self._later: list[tuple[float, int, StageTask]] = []
        self._order = itertools.count()
        while len(board):
            self._bring_back()
            self._assign()
            self._staff()
            self._speculate()
            self._release()
            for news in self._crew.hear(POLL_S):
                self._take_in(news)
            self._check_silence()
            self._check_start()

    def close(self) -> None:
        """End all workers."""
        for worker in list(self._workers):
            self._drop(worker)

    # -- handing out ---------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        for lane in self._board.lanes():
            while self._board.ready(lane) and self._may_start(lane):
                kind = self._solo.get(lane, lane)
                if not self._idle[kind]:
                    break
                task = self._board.take(lane)
                assert task is not None
                self._give(self._idle[kind].pop(), task)

    def _may_start(self, lane: str) -> bool:
        if lane in self._solo:
            return not self._running
        alone = (self._board.ready(solo) for solo in self._solo)
        return not any(alone) and not any(self._lane(task) in self._solo for task in self._running.values())

    def _give(self, worker: int, task: StageTask) -> None:
        key, now, person = _key(task), self._crew.now(), self._workers[worker]
        record = self._records[key]
        if not record.workers:
            record.begun = now
        record.workers.add(worker)
        person.task, person.heard = task, now
        self._running[key] = task
        self._crew.give(worker, task)
        self._listener(Event("begin", task.stage, task.name, total=len(task.units), node=person.name))

    def _staff(self) -> None:
        """Hire for what is ready; requests that fit nowhere stay open, which asks an autoscaler for nodes."""
        if self._crew.now() < self._hire_from:
            return
        for kind, wanted in self._demand().items():
            have = sum(worker.lane == kind for worker in self._workers.values())
            room = max(1, self._crew.room(kind)) * (2 if self._grows else 1)
            for _ in range(min(self._limits.get(kind) or room, wanted) - have):
                worker = self._crew.hire(kind)
                self._workers[worker] = _Worker(kind, self._crew.now())

    def _demand(self) -> dict[str, int]:
        own = {lane for lane, kind in self._solo.items() if lane == kind}
        if any(self._lane(task) in own for task in self._running.values()):
            return {}  # a trainer's own workers could not start beside the pool's
        alone = [lane for lane in self._board.lanes() if lane in self._solo and self._board.ready(lane)]
        busy = collections.Counter(worker.lane for worker in self._workers.values() if worker.task)
        if alone:
            # Others give their resources back before the one that runs alone is hired.
            kind = self._solo[alone[0]]
            if not self._running:
                for number, worker in list(self._workers.items()):
                    if worker.lane != kind:
                        self._drop(number)
                return {kind: 1}
            return {}
        board = self._board
        found = {
            lane: board.ready(lane) + busy[lane] + len(self._slow(lane))
            for lane in {*board.lanes(), *busy}
            if lane not in self._solo
        }
        soon = (lane for lane in board.lanes_to_come() if lane in self._early or self._ends_soon(lane))
        return found | {lane: found.get(lane, 0) + board.soon(lane) for lane in soon}

    def _ends_soon(self, lane: str) -> bool:
        """Tell whether all of a lane's tasks are in their last step, so that the workers of the next may come up."""
        if lane in self._solo or any(self._lane(task) in self._solo for task in self._running.values()):
            return False
        own = [self._records[key].ends_soon for key, task in self._running.items() if self._lane(task) == lane]
        return bool(own) and all(own) and not self._board.ready(lane)

    def _slow(self, lane: str) -> list[Key]:
        """List the tasks of a lane that take far longer than their like, once nothing else waits there."""
        factor, now = self._config.speculate, self._crew.now()
        if not factor or self._board.ready(lane):
            return []
        slow = [
            (self._records[key].begun, key)
            for key, task in self._running.items()
            if self._lane(task) == lane
            and len(self._records[key].workers) == 1
            and len(self._times[task.stage]) >= 3
            and now - self._records[key].begun
            > max(SPECULATE_AFTER_S, factor * statistics.median(self._times[task.stage]))
        ]
        return [key for _, key in sorted(slow)]

    def _speculate(self) -> None:
        """Give idle workers a second copy of the slowest tasks."""
        for lane, idle in self._idle.items():
            for key in self._slow(lane)[: len(idle)] if idle else ():
                task = self._running[key]
                text = f"{task.name} takes long; a second worker tries it too"
                self._listener(Event("note", task.stage, task.name, text=text))
                self._give(idle.pop(), task)

    def _release(self) -> None:
        """Give back who has nothing more to do, so that others can use the GPUs while the last tasks run."""
        waiting = collections.defaultdict[str, list[int]](list)  # not up yet, then idle: the first to go stand first
        for number, worker in self._workers.items():
            if worker.node is None:
                waiting[worker.lane].insert(0, number)
        for kind, idle in self._idle.items():
            waiting[kind] += reversed(idle)
        for kind, spare in waiting.items():
            lanes = [kind, *(lane for lane, other in self._solo.items() if other == kind)]
            left = sum(map(self._board.left, lanes)) - sum(self._lane(task) in lanes for task in self._running.values())
            for number in spare[: max(0, len(spare) - left - len(self._slow(kind)))]:
                self._drop(number)

    def _bring_back(self) -> None:
        while self._later and self._later[0][0] <= self._crew.now():
            self._board.put_back(heapq.heappop(self._later)[2])

    # -- hearing -------------------------------------------------------------------------------------------------

    def _take_in(self, news: News) -> None:
        person = self._workers.get(news.worker)
        if person is None:
            return  # news of a worker that was dismissed
        person.heard = self._crew.now()
        task = person.task
        if news.kind == "up":
            person.node, person.pid, self._spawn_failures = news.node, news.pid, 0
            self._idle[person.lane].append(news.worker)
            self._tell_workers()
        elif news.kind == "unfit":
            self._unfit(news, person)
        elif news.kind == "lost":
            self._lost(news, person)
        elif news.kind == "event" and news.event is not None:
            if news.event.kind == "progress" and task is not None:
                self._records[_key(task)].ends_soon = news.event.done >= news.event.total - 1
            self._listener(news.event)
        elif news.kind == "done" and task is not None:
            self._done(news.worker, task)
        elif news.kind == "error" and task is not None and isinstance(news.error, StageError):
            self._error(news.worker, task, news.error)

    def _done(self, worker: int, task: StageTask) -> None:
        key = _key(task)
        self._rest(worker, key)
        self._times[task.stage].append(self._crew.now() - self._records[key].begun)
        for other in list(self._records[key].workers):
            self._drop(other)  # the slower copy
        self._running.pop(key, None)
        self._records.pop(key)
        self._board.finish(task)
        self._listener(Event("done", task.stage, task.name))

    def _error(self, worker: int, task: StageTask, error: StageError) -> None:
        if error.passing:
            # What broke may be the worker (a full disk, a GPU in a bad state): the next try gets another one.
            self._drop(worker)
            self._retry(task, error.cause, error)
            return
        self._rest(worker, _key(task))
        self._fail(task, error)

    def _lost(self, news: News, person: _Worker) -> None:
        self._drop(news.worker)
        self._tell_workers()
        where = f" on {person.name}" if person.node else ""
        if person.task is not None:
            if news.node_left:
                self._retry(person.task, f"its node left ({news.text})", blame=False)
            else:
                self._retry(person.task, f"its worker{where} died ({news.text})", hint=FEWER)
        elif person.node is None:
            self._stillborn(news.text, MAX_SPAWN_FAILURES, None)
        else:
            self._listener(Event("note", "", text=f"an idle worker{where} is gone ({news.text})"))

    def _unfit(self, news: News, person: _Worker) -> None:
        error = news.error or ConfigError(news.text)
        self._drop(news.worker)
        if person.node is not None:
            raise error  # it was fit, and says that its task cannot be run for this run at all
        starting = any(worker.node is None for worker in self._workers.values())
        self._stillborn(str(error), MAX_UNFIT if starting else 1, error)

    def _stillborn(self, reason: str, limit: int, error: WmddError | None) -> None:
        """Hire more slowly after workers that did not start; give up after so many times where nobody else works."""
        again = self._crew.now() >= self._hire_from  # else hired with the last that did not start
        self._spawn_failures += again
        if self._spawn_failures >= limit and all(worker.node is None for worker in self._workers.values()):
            raise error or WmddError(f"{self._spawn_failures} times in a row no worker started: {reason}")
        if not again:
            return
        pause = min(MAX_HIRING_PAUSE_S, BACKOFF_S * 2**self._spawn_failures)
        self._hire_from = self._crew.now() + pause
        self._listener(Event("note", "", text=f"a worker did not start ({reason}); another is tried in {pause:g} s"))

    def _retry(
        self, task: StageTask, reason: str, error: StageError | None = None, *, hint: str = "", blame: bool = True
    ) -> None:
        key = _key(task)
        record = self._records[key]
        record.attempts += blame
        record.losses += not blame
        if record.workers or not self._board.is_open(task):
            return  # another copy goes on
        self._running.pop(key, None)
        if record.attempts >= self._config.attempts or record.losses >= MAX_LOSSES:
            tries = f"{reason}, {record.attempts + record.losses} times{hint}"
            self._fail(task, StageError(task.stage, error.unit if error else task.name, tries))
            return
        wait = BACKOFF_S * 2 ** (record.attempts + min(record.losses, 4))
        heapq.heappush(self._later, (self._crew.now() + wait, next(self._order), task))
        text = f"{task.name}: {reason}; it starts again on another worker"
        self._listener(Event("retry", task.stage, task.name, text=text))

    def _fail(self, task: StageTask, error: StageError) -> None:
        key = _key(task)
        for other in list(self._records[key].workers):
            self._drop(other)
        self._running.pop(key, None)
        self._records.pop(key, None)
        self._board.fail(task, error)
        self._listener(Event("failed", task.stage, task.name, text=str(error)))

    def _check_silence(self) -> None:
        now = self._crew.now()
        for number, worker in list(self._workers.items()):
            if worker.task is not None and now - worker.heard > self._config.silence_s:
                task = worker.task
                self._drop(number)
                self._tell_workers()
                reason = f"its worker on {worker.name} gave no news for {self._config.silence_s:g} s"
                self._retry(task, reason, hint="; give it longer with ray.silence_s if it only works slowly")

    def _check_start(self) -> None:
        """Give up when tasks are ready, nothing runs, and no worker for them has come up for too long."""
        now, limit = self._crew.now(), self._config.start_timeout_s
        if self._running or self._later:
            self._waiting_since, self._told_waiting = None, False
            return
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        waited = now - self._waiting_since
        kinds = {self._solo.get(lane, lane) for lane in self._board.lanes()}
        if waited > limit / 2:
            self._make_room(kinds)
        fits = any(self._crew.room(kind) for kind in kinds)
        if waited > limit * (BUSY_FACTOR if fits else 1):
            raise ConfigError(
                f"ray.start_timeout_s={limit:g}: no worker could start in {waited:.0f} s ({self._crew.describe()}); "
                "ask for less, or give a longer time if nodes are on their way"
            )
        if waited > limit and not self._told_waiting:
            self._told_waiting = True
            text = (
                f"no worker has come up for {limit:g} s ({self._crew.describe()}): the nodes may be busy; it waits on"
            )
            self._listener(Event("note", "", text=text))

    def _make_room(self, kinds: set[str]) -> None:
        """End idle workers that may hold what the workers of these kinds need."""
        for number in [number for kind, idle in self._idle.items() if kind not in kinds for number in idle]:
            self._drop(number)

    # -- the books -----------------------------------------------------------------------------------------------

    def _rest(self, worker: int, key: Key) -> None:
        person = self._workers[worker]
        person.task = None
        self._records[key].workers.discard(worker)
        if person.lane in self._solo:
            self._drop(worker)
        else:
            self._idle[person.lane].append(worker)

    def _drop(self, worker: int) -> None:
        person = self._workers.pop(worker)
        if worker in self._idle[person.lane]:
            self._idle[person.lane].remove(worker)
        if person.task is not None:
            self._records[_key(person.task)].workers.discard(worker)
        self._crew.dismiss(worker)

    def _tell_workers(self) -> None:
        nodes = collections.Counter(worker.node for worker in self._workers.values() if worker.node)
        self._listener(Event("workers", "", metrics=dict(sorted(nodes.items()))))

    def _lane(self, task: StageTask) -> str:
        return self._board.lane(task)


def _key(task: StageTask) -> Key:
    return task.stage, task.name
