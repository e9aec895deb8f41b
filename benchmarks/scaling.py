"""How well is a cluster's time used? The real plan, board and scheduler on simulated GPUs and a virtual clock.

    python -m benchmarks.scaling >> benchmarks/results/scaling.jsonl

The plan is that of ``imagenet-1k`` over a thousand classes of 1,281 images. A task's seconds are its floating-point
operations (`wmdd.engine.work`) at an assumed rate for one GPU, times an assumed ratio that differs from task
to task; a student that several GPUs train has its share of them, and an assumed time for the sums over the GPUs in each
step. Barycenters are not networks: theirs are CPU seconds, measured here. ``--without`` switches off a part of the
scheduler.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import random
import time
from collections import Counter

import threadpoolctl

from benchmarks.common import report
from benchmarks.planning import index_of
from ray_jobs.scheduler import Scheduler
from ray_jobs.simulation import SimulatedWorkers
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.recovery import BarycenterConfig
from wmdd.engine.board import Board
from wmdd.engine.cost import GPU_FLOPS_PER_S
from wmdd.engine.events import Event
from wmdd.engine.plan import plan_from
from wmdd.engine.run import workers_of
from wmdd.engine.task import Plan, StageTask
from wmdd.engine.work import Workload
from wmdd.method.barycenter import free_support_barycenter
from wmdd.runtime.compilation import GPU_RECOVERY_STEPS
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES
from wmdd.storage.store import ArtifactRef

CLASSES, PER_CLASS, VALIDATION = 1000, 1281, 50_000
GPUS_PER_NODE, STUDENTS = 8, 6
IMAGE_STAGES = ("pretrain", "statistics", "barycenter", "recover")


def make_plan(ipc: int, workers: int, classes_per_batch: int) -> Plan:
    """Plan ImageNet-1K without its images; `workers` train a student together."""
    changes = {"ipc": ipc, "evaluate.workers": workers, "recover.classes_per_batch": classes_per_batch}
    config = override(recipe("imagenet-1k"), changes)
    return plan_from(config, index_of(CLASSES, PER_CLASS, VALIDATION), ArtifactRef("index", "index", "i"))


@functools.cache
def barycenter_s(ipc: int) -> float:
    """Return the CPU seconds of a barycenter of as many features as a class has, of ResNet-18's dimension.

    The features are random, of rank 30 and noise, after a ReLU.
    """
    rng, dims = SeedTree(0).numpy(), 512
    whole = rng.standard_normal((PER_CLASS, 30)) @ rng.standard_normal((30, dims))
    features = (whole + rng.standard_normal((PER_CLASS, dims))).clip(0).astype("float32")
    options = BarycenterConfig().model_dump(include={"mass", "init", "max_iterations", "tolerance"})
    with threadpoolctl.threadpool_limits(1):
        begun = time.process_time()
        free_support_barycenter(features, ipc, rng=rng, **options)
        return time.process_time() - begun


class Durations:
    """The seconds of tasks, which are the same on every node and in every simulation."""

    def __init__(self, plan: Plan, args: argparse.Namespace) -> None:
        self._args, self._work, config = args, Workload(plan), plan.config
        self._steps = config.relabel.epochs * -(-CLASSES * config.ipc // config.relabel.batch_size)

    def work_s(self, task: StageTask) -> float:
        """Return the seconds of one worker that does a task alone."""
        spread, stage = self._args.spread, task.stage
        ratio = random.Random(f"{stage} {task.name}").uniform(1 - spread, 1 + spread)
        if STAGES[stage].gpu:
            return ratio * sum(item.flops for item in self._work.passes(task)) / (self._args.tflops * 1e12)
        ipc = self._work.config.ipc
        return ratio * len(task.units) * (barycenter_s(ipc) if stage == "barycenter" else ipc * self._args.draw_s)

    def __call__(self, task: StageTask, _node: str) -> float:
        """Return the seconds that a task takes, on as many workers as it has."""
        workers, args = workers_of(task), self._args
        # Ray Train starts the workers of a team once its trainer has started.
        more_s = args.start_s + self._steps * args.sync_ms / 1e3 if workers > 1 else 0.0
        return self.work_s(task) / workers + more_s


class Simulation:
    """One run over a number of GPUs.

    Args:
        lost: share of the nodes that leave each hour, each replaced after `args.replaced_s`.
    """

    def __init__(self, plan: Plan, seconds: Durations, gpus: int, args: argparse.Namespace, lost: float) -> None:
        self.seconds, self.gpus, self.args = seconds, gpus, args
        self.names = (f"node-{number}" for number in itertools.count())
        self.slots = min(gpus, GPUS_PER_NODE)
        nodes = {next(self.names): self.slots for _ in range(gpus // self.slots)}
        self.teams = {"team": plan.config.evaluate.workers} if plan.config.evaluate.workers > 1 else {}
        times = {"start_s": args.start_s, "delay_s": args.overhead_s}
        self.workers = SimulatedWorkers(nodes, self._take, teams=self.teams, **times)
        self.plan, self.ended = plan, dict[str, float]()
        self.retries = self.lost = 0
        self.took = dict[tuple[str, str], float]()
        config = plan.config
        is_compiled = args.always_compiled or config.recover.iterations >= GPU_RECOVERY_STEPS
        self.compile_s = args.compile_s if is_compiled else 0.0
        self.compiled = Counter[str]()
        if lost:
            self.random, self.every_s = random.Random(gpus), 3600 / (lost * len(nodes))
            self.workers.at(self.random.expovariate(1 / self.every_s), self._lose)

    def _take(self, task: StageTask, node: str) -> float:
        """Return the seconds of a task, with compilation in the first of recovery on each GPU of a node."""
        compiles = task.stage == "recover" and self.compiled[node] < self.slots
        self.compiled[node] += compiles
        took = self.took[task.stage, task.name] = self.seconds(task, node) + compiles * self.compile_s
        return took

    def _lose(self) -> None:
        now = self.workers.now()
        self.lost += 1
        self.workers.leave(self.random.choice(sorted(self.workers.nodes)))
        self.workers.at(now + self.args.replaced_s, lambda: self.workers.join(next(self.names), self.slots))
        self.workers.at(now + self.random.expovariate(1 / self.every_s), self._lose)

    def _listen(self, event: Event) -> None:
        self.retries += event.kind == "retry"
        if event.kind == "done":
            self.ended[event.stage] = self.workers.now()

    def _queue(self, task: StageTask) -> str:
        if workers_of(task) > 1:
            return "team"
        return "cpu" if not STAGES[task.stage].gpu and "cpu-workers" not in self.args.without else "main"

    def run(self) -> dict[str, float]:
        """Run, and return which share of the GPUs' time was work: until the images exist, and while GPUs were held.

        GPUs without tasks are released, so that a run may hold fewer than the cluster has. What the workers of a team
        wait for each other is no work.
        """
        tasks = [task for group in self.plan.tasks.values() for task in group]
        missing = {unit.ref for task in tasks for unit in task.units}
        # Simulated students report no epochs, and a lost node is replaced.
        patient = self.plan.config.ray.model_copy(update={"silence_s": 1e9, "start_timeout_s": 1800.0})
        starts = {"early": {"cpu"}, "at_once": ("cpu", "main")}
        starts = {name: kinds for name, kinds in starts.items() if name not in self.args.without}
        scheduler = Scheduler(self.workers, patient, self._listen, teams=self.teams, **starts)
        scheduler.run(Board(tasks, missing, self._queue))
        scheduler.close()
        images, whole = max(self.ended[stage] for stage in IMAGE_STAGES), self.workers.now()
        work_s = sum(self.seconds.work_s(task) for task in tasks if STAGES[task.stage].gpu)
        begun = {(task.stage, task.name): (moment, task) for moment, _, task in self.workers.assigned}  # last attempts
        until_images_s = sum(
            self.seconds.work_s(task) * min(1.0, max(0.0, images - moment) / self.took[name])
            for name, (moment, task) in begun.items()
            if STAGES[task.stage].gpu
        )
        return {
            "images_s": round(images, 1),
            "images_efficiency": round(until_images_s / (images * self.gpus), 3),
            "run_s": round(whole, 1),
            "ideal_s": round(work_s / self.gpus, 1),
            "times_ideal": round(whole * self.gpus / work_s, 2),
            "held_efficiency": round(work_s / (self.workers.held_s["main"] + self.workers.held_s["team"]), 3),
            "retries": self.retries,
            "nodes_lost": self.lost,
        }


def main() -> None:
    """Simulate every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=GPU_FLOPS_PER_S / 1e12, help="assumed rate of one GPU")
    parser.add_argument("--start-s", type=float, default=6.0, help="from a worker's placement to its first task (6)")
    parser.add_argument("--compile-s", type=float, default=30.0, help="of compilation, once on a GPU (30)")
    parser.add_argument("--always-compiled", action="store_true", help="also where runtime.compile=auto does not")
    parser.add_argument("--overhead-s", type=float, default=0.01, help="of the scheduler and the store, per task")
    parser.add_argument("--replaced-s", type=float, default=300.0, help="until a lost node is replaced")
    parser.add_argument("--spread", type=float, default=0.1, help="of tasks about their mean, either way (default 0.1)")
    parser.add_argument("--draw-s", type=float, default=0.005, help="to read a random real image (default 0.005)")
    parser.add_argument("--workers", type=int, default=8, help="GPUs of a student, where there are as many (8)")
    parser.add_argument("--sync-ms", type=float, default=2.0, help="of the sums over them in each step (default 2)")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--ipc", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--classes-per-batch", type=int, default=0, help="recover.classes_per_batch (default 0)")
    parser.add_argument("--without", nargs="+", default=[], choices=["early", "at_once", "cpu-workers"])
    args = parser.parse_args()
    for ipc, gpus in itertools.product(args.ipc, args.gpus):
        plan = make_plan(ipc, max(1, min(args.workers, gpus // STUDENTS)), args.classes_per_batch)
        seconds = Durations(plan, args)
        calm = Simulation(plan, seconds, gpus, args, 0.0).run()
        stormy = Simulation(plan, seconds, gpus, args, 0.01).run()
        loss = {"run_s_ratio": round(stormy["run_s"] / calm["run_s"], 4)}
        loss |= {name: stormy[name] for name in ("retries", "nodes_lost")}
        names = (
            "tflops",
            "start_s",
            "compile_s",
            "always_compiled",
            "overhead_s",
            "spread",
            "draw_s",
            "workers",
            "sync_ms",
            "classes_per_batch",
            "without",
        )
        assumed = {name: getattr(args, name) for name in names}
        tasks, solved_s = sum(map(len, plan.tasks.values())), round(barycenter_s(ipc), 3)
        figures = {**calm, "losing_1_percent_an_hour": loss, "barycenter_s": solved_s, "assumed": assumed}
        report("scaling", ipc=ipc, gpus=gpus, team=plan.config.evaluate.workers, tasks=tasks, **figures)


if __name__ == "__main__":
    main()
