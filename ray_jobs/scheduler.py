"""Assigns the tasks of a board to workers that start, hang, die, and come and go with their nodes. Independent of Ray.

A task whose worker dies or falls silent is tried again on another, up to ``ray.attempts`` times; a node that leaves
costs its tasks no attempt; an error of the method itself is final. Tasks write content-keyed artifacts atomically, so
that running one twice is harmless.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Collection, Container, Mapping

from ray_jobs.retries import Retries
from ray_jobs.starts import Starts
from ray_jobs.workers import Message, NoRoomError, Worker, Workers
from wmdd.config.machines import RayConfig
from wmdd.engine.board import Board
from wmdd.engine.events import Event
from wmdd.engine.task import StageTask
from wmdd.errors import ConfigError, StageError
from wmdd.process.interruptions import SAVE_S

MAIN = "main"
POLL_S = 0.5
MAX_UNFIT = 3  # workers in a row that report why they cannot work, while none is ready
FEWER = "; is memory too small? --ray.actors 1, or --executor local, needs less"
SLOW = "; raise ray.silence_s if it is only slow"


class Scheduler:
    """Runs a board on workers; those that are left serve the next board.

    A queue of the board is served by the kind of worker of that name, except for exclusive ones.

    Args:
        limits: maximum number of workers by kind; 0 or absent: as many as the nodes hold.
        exclusive: queues whose tasks run while no other task does, with the kind of worker that serves them.
        teams: kinds of workers that start others, with the number of main workers whose place these take. The tasks of
            their queues go first: main workers end, as they finish their tasks, until a team has room.
        early: kinds of workers to start while upstream tasks still run, so that GPU workers never wait for a CPU worker
            to start.
        at_once: kinds of workers to start with the board, for all of their tasks that are left.
        grows: nodes may join when workers wait for them: up to as many more are requested as the present nodes hold.
    """

    def __init__(
        self,
        backend: Workers,
        config: RayConfig,
        listener: Callable[[Event], None],
        *,
        limits: Mapping[str, int] | None = None,
        exclusive: Mapping[str, str] | None = None,
        teams: Mapping[str, int] | None = None,
        early: Container[str] = (),
        at_once: Collection[str] = (),
        grows: bool = False,
    ) -> None:
        self._backend, self._config, self._listener = backend, config, listener
        self._limits, self._exclusive = dict(limits or {}), dict(exclusive or {})
        self._teams, self._early, self._at_once, self._grows = dict(teams or {}), early, at_once, grows
        self._workers: dict[int, Worker] = {}
        self._starts = Starts(backend, config, listener)

    def run(self, board: Board) -> None:
        """Run until no task of the board is left.

        Raises:
            ConfigError: if no worker can start; finished units are kept.
        """
        self._board, self._retries = board, Retries(self._config.attempts)
        try:
            while len(board):
                self._step()
        except KeyboardInterrupt:
            busy = [number for number, worker in self._workers.items() if worker.task]
            self._backend.request_snapshots(busy, SAVE_S)
            raise

    def _step(self) -> None:
        for task in self._retries.due(self._backend.now()):
            self._board.put_back(task)
        self._assign()
        self._terminate_surplus()
        self._start_workers()
        for message in self._backend.poll(POLL_S):
            if message.worker in self._workers:  # else it was terminated in the meantime
                self._handle(message, self._workers[message.worker])
        self._check_silence()
        self._check_starts()

    def close(self) -> None:
        """Terminate all workers."""
        for worker in list(self._workers.values()):
            self._terminate(worker)

    # -- assignment ----------------------------------------------------------------------------------------------

    def _running(self) -> list[str]:
        """Return the queue of each running task."""
        return [self._board.queue(worker.task) for worker in self._workers.values() if worker.task]

    def _idle(self) -> dict[str, list[Worker]]:
        """Return the workers that are ready and have no task, by kind."""
        idle = collections.defaultdict[str, list[Worker]](list)
        for worker in self._workers.values():
            if worker.node is not None and worker.task is None:
                idle[worker.kind].append(worker)
        return idle

    def _kind(self, queue: str) -> str:
        return self._exclusive.get(queue, queue)

    def _assign(self) -> None:
        idle = self._idle()
        for queue in self._board.queues():
            workers = idle[self._kind(queue)]
            while workers and self._may_run(queue) and (task := self._board.take(queue)):
                worker = workers.pop(0)
                worker.task, worker.last_message_s = task, self._backend.now()
                self._backend.assign(worker.number, task)
                self._listener(Event("begin", task.stage, task.name, total=len(task.units), node=worker.name))

    def _may_run(self, queue: str) -> bool:
        running = self._running()
        if queue in self._exclusive:
            return not running
        if queue == MAIN and running.count(MAIN) >= self._room():
            return False
        return not self._next_exclusive() and not any(name in self._exclusive for name in running)

    def _room(self) -> int:
        """Return how many main workers may work, so that each team that runs, or whose task is ready, has room."""
        running, reserved = collections.Counter(self._running()), 0
        for kind, places in self._teams.items():
            wanted = max(self._board.ready(kind) + running[kind], self._count(kind))
            reserved += places * min(wanted, self._capacity(kind))
        return max(0, self._capacity(MAIN) - reserved) if reserved else sys.maxsize

    def _capacity(self, kind: str) -> int:
        """Return how many workers of a kind the present nodes hold, up to its limit."""
        return min(self._backend.capacity(kind), self._limits.get(kind) or sys.maxsize)

    def _count(self, kind: str) -> int:
        return sum(worker.kind == kind for worker in self._workers.values())

    def _next_exclusive(self) -> str:
        """Return the queue of the first task that is ready, if it is exclusive, else ""."""
        first = next(iter(self._board.queues()), "")
        return first if first in self._exclusive else ""

    # -- number of workers ---------------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        """Start workers for tasks that are ready; a request that no node can hold asks an autoscaler for one."""
        if self._starts.are_paused():
            return
        present = collections.Counter(worker.kind for worker in self._workers.values())
        for kind, demand in self._demand().items():
            capacity = max(1, self._backend.capacity(kind))
            most = min(self._limits.get(kind) or 2 * capacity, demand)
            most = most if self._grows else min(most, capacity)
            if kind == MAIN or kind in self._teams:
                most = min(most, self._room() if kind == MAIN else self._teams_that_fit(kind))
            for _ in range(most - present[kind]):
                number = self._backend.start(kind)
                self._workers[number] = Worker(number, kind)

    def _teams_that_fit(self, kind: str) -> int:
        """Return how many teams of a kind fit next to the main workers: one in any case if there are none."""
        main = self._count(MAIN)
        return max((self._capacity(MAIN) - main) // self._teams[kind], 0 if main else 1)

    def _demand(self) -> dict[str, int]:
        """Return how many workers the tasks that are ready, running or about to be ready can use, by kind."""
        board, running = self._board, collections.Counter(self._running())
        exclusive = self._next_exclusive()
        if any(self._exclusive.get(queue) == queue for queue in running):
            return {}  # a teacher's trainers, which that task starts, need the resources
        if exclusive:
            return {} if running else {self._kind(exclusive): 1}
        demand = collections.Counter({self._kind(queue): count for queue, count in running.items()})
        for queue in board.queues():
            demand[queue] += board.ready(queue) if queue not in self._exclusive else 0
        for queue, count in board.soon().items():
            demand[queue] += count if queue in self._early else 0
        for queue in self._at_once:
            demand[queue] = max(demand[queue], board.left(queue))
        return demand

    def _terminate_surplus(self) -> None:
        """Terminate workers that no task is left for, so that others can use their GPUs while the last tasks run.

        Before an exclusive task, those of other kinds end too.
        """
        running, exclusive = self._running(), self._next_exclusive()
        for kind in {worker.kind for worker in self._workers.values()}:
            queues = {kind, *(queue for queue in self._exclusive if self._kind(queue) == kind)}
            waiting = sum(map(self._board.left, queues)) - sum(queue in queues for queue in running)
            if exclusive and not running and kind != self._kind(exclusive):
                waiting = 0
            spare = [worker for worker in self._workers.values() if worker.kind == kind and not worker.task]
            spare.sort(key=lambda worker: (worker.node is not None, -worker.number))  # first those not ready
            surplus = len(spare) - waiting
            if kind == MAIN:
                surplus = max(surplus, self._count(MAIN) - self._room())
            for worker in spare[: max(0, surplus)]:
                self._terminate(worker)

    def _terminate(self, worker: Worker) -> None:
        del self._workers[worker.number]
        self._backend.terminate(worker.number)

    # -- messages ------------------------------------------------------------------------------------------------

    def _handle(self, message: Message, worker: Worker) -> None:
        worker.last_message_s = self._backend.now()
        event, task = message.event, worker.task
        if message.kind == "ready":
            worker.node, worker.pid = message.node, message.pid
            self._starts.succeed()
            self._report_workers()
        elif message.kind == "unfit":
            self._handle_unfit(message, worker)
        elif message.kind == "lost":
            self._handle_lost(message, worker)
        elif message.kind == "event" and event is not None:
            self._listener(event)
        elif message.kind == "done" and task is not None:
            self._release(worker)
            self._board.finish(task)
            self._listener(Event("done", task.stage, task.name))
        elif message.kind == "error" and task is not None and isinstance(message.error, StageError):
            self._handle_error(message.error, worker, task)

    def _handle_error(self, error: StageError, worker: Worker, task: StageTask) -> None:
        if error.passing:
            # The worker may be at fault (a full disk, a GPU in a bad state): the next attempt is on another one.
            self._terminate(worker)
            self._retry(task, error.cause, unit=error.unit)
        else:
            self._release(worker)
            self._fail(task, error)

    def _handle_lost(self, message: Message, worker: Worker) -> None:
        self._terminate(worker)
        self._report_workers()
        if worker.node is None:
            self._starts.fail(message.text, self._any_ready())
        elif worker.task is None:
            self._listener(Event("note", "", text=f"an idle worker on {worker.name} is gone ({message.text})"))
        elif message.node_left:
            self._retry(worker.task, f"its node left ({message.text})", node_left=True)
        else:
            self._retry(worker.task, f"its worker on {worker.name} died ({message.text})", hint=FEWER)

    def _handle_unfit(self, message: Message, worker: Worker) -> None:
        error = message.error or ConfigError(message.text)
        self._terminate(worker)
        if worker.task is None:
            any_starting = any(other.node is None for other in self._workers.values())
            self._starts.fail(str(error), self._any_ready(), MAX_UNFIT if any_starting else 1, error)
        elif isinstance(error, NoRoomError) and self._workers:
            self._retry(worker.task, str(error), node_left=True)  # there may be room when the others end
        else:
            raise error  # no worker can run the task

    def _any_ready(self) -> bool:
        return any(worker.node is not None for worker in self._workers.values())

    def _release(self, worker: Worker) -> None:
        worker.task = None
        if worker.kind in self._exclusive or worker.kind in self._teams:
            self._terminate(worker)

    def _report_workers(self) -> None:
        nodes = collections.Counter(worker.node for worker in self._workers.values() if worker.node)
        self._listener(Event("workers", "", metrics=dict(sorted(nodes.items()))))

    # -- failures ------------------------------------------------------------------------------------------------

    def _retry(self, task: StageTask, reason: str, *, unit: str = "", hint: str = "", node_left: bool = False) -> None:
        attempts = self._retries.add(task, self._backend.now(), node_left=node_left)
        if attempts:
            self._fail(task, StageError(task.stage, unit or task.name, f"{reason}, {attempts} times{hint}"))
        else:
            text = f"{task.name}: {reason}; it starts again on another worker"
            self._listener(Event("retry", task.stage, task.name, text=text))

    def _fail(self, task: StageTask, error: StageError) -> None:
        self._board.fail(task, error)
        self._listener(Event("failed", task.stage, task.name, text=str(error)))

    def _check_silence(self) -> None:
        now, limit = self._backend.now(), self._config.silence_s
        for worker in list(self._workers.values()):
            if worker.task is not None and now - worker.last_message_s > limit:
                self._terminate(worker)
                self._report_workers()
                self._retry(worker.task, f"its worker on {worker.name} sent no message for {limit:g} s", hint=SLOW)

    def _check_starts(self) -> None:
        """End the run if tasks are ready, none runs, and for too long no worker for them has started."""
        waited_s = self._starts.waited_s(not self._running() and not self._retries)
        kinds = set(map(self._kind, self._board.queues()))
        if waited_s > self._config.start_timeout_s / 2:
            for kind, workers in self._idle().items():
                for worker in workers if kind not in kinds else ():  # they may hold what these kinds need
                    self._terminate(worker)
        self._starts.check(waited_s, kinds)
