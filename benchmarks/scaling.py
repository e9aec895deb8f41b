"""How well is a cluster's time used? The real plan, board and scheduler on simulated GPUs and a virtual clock.

    python -m benchmarks.scaling --run runs/cifar10-quick-1281 >> benchmarks/results/scaling.jsonl

The plan is that of ``imagenet-1k`` over a thousand classes of 1,281 images. A task's seconds are its floating-point
operations (`wmdd.engine.work`) at an assumed rate for one GPU, times the ratio of a measured unit's seconds to the mean
of its stage, drawn from the units of a real run: so the spread between units is measured, the rate is not. Barycenters
are not networks: theirs are the measured seconds. ``--without`` switches off a part of the scheduler.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import random
import statistics
from collections.abc import Callable

import numpy as np

from benchmarks.common import report
from ray_jobs.scheduler import Scheduler
from ray_jobs.simulation import SimulatedWorkers
from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.index import DatasetIndex, Split
from wmdd.engine.board import Board
from wmdd.engine.cost import GPU_FLOPS_PER_S
from wmdd.engine.events import Event
from wmdd.engine.plan import plan_from
from wmdd.engine.task import Plan, StageTask
from wmdd.engine.work import Workload
from wmdd.stages import STAGES
from wmdd.storage.folder import Folder
from wmdd.storage.store import ArtifactRef

CLASSES, PER_CLASS, VALIDATION = 1000, 1281, 50_000
GPUS_PER_NODE = 8
IMAGE_STAGES = ("pretrain", "statistics", "barycenter", "recover")


def make_plan(ipc: int) -> Plan:
    """Plan ImageNet-1K without its images."""

    def split(count: int) -> Split:
        label = np.repeat(np.arange(CLASSES, dtype=np.int32), count // CLASSES)
        zero, size = np.zeros(len(label), np.int32), np.full(len(label), 256, np.int32)
        row, digest = zero.astype(np.int64), zero.astype(np.uint64)
        upright = np.ones(len(label), np.int8)
        return Split(("none",), zero, row, label, size, size, digest, upright, *[zero] * 5)

    names = tuple(f"class {number}" for number in range(CLASSES))
    index = DatasetIndex("none", "folder", names, split(CLASSES * PER_CLASS), split(VALIDATION), val_held_out=False)
    return plan_from(override(recipe("imagenet-1k"), {"ipc": ipc}), index, ArtifactRef("index", "index", "i"))


def measured(run: str) -> dict[str, list[float]]:
    """Return the seconds of a run's units by stage."""
    store = Folder(json.loads(Folder(run).read("run.json") or b"{}")["store"])
    seconds = collections.defaultdict[str, list[float]](list)
    for folder in itertools.chain.from_iterable(store.entries(item["name"]) for item in store.entries()):
        commit = json.loads(store.read(f"{folder['name']}/commit.json") or b"{}")
        if commit.get("seconds"):
            seconds[commit["stage"]].append(commit["seconds"])
    return seconds


def durations(plan: Plan, spread: dict[str, list[float]], flops_per_s: float) -> Callable[[StageTask, str], float]:
    """Return the seconds of a task, which are the same on every node and in every simulation."""
    work = Workload(plan)

    def seconds(task: StageTask, _node: str) -> float:
        past = spread.get(task.stage) or [1.0]
        ratio = random.Random(f"{task.stage} {task.name}").choice(past) / statistics.mean(past)
        if not STAGES[task.stage].gpu:
            return ratio * statistics.mean(past) * len(task.units)
        return ratio * sum(item.flops for item in work.passes(task)) / flops_per_s

    return seconds


class Simulation:
    """One run over a number of GPUs.

    Args:
        lost: share of the nodes that leave each hour, each replaced after `args.replaced_s`.
    """

    def __init__(
        self, plan: Plan, seconds: Callable[[StageTask, str], float], gpus: int, args: argparse.Namespace, lost: float
    ) -> None:
        self.seconds, self.gpus, self.args = seconds, gpus, args
        self.names = (f"node-{number}" for number in itertools.count())
        self.slots = min(gpus, GPUS_PER_NODE)
        nodes = {next(self.names): self.slots for _ in range(gpus // self.slots)}
        self.workers = SimulatedWorkers(nodes, seconds, start_s=args.start_s, delay_s=args.overhead_s)
        self.plan, self.ended, self.retries = plan, dict[str, float](), 0
        if lost:
            self.random, self.every_s = random.Random(gpus), 3600 / (lost * len(nodes))
            self.workers.at(self.random.expovariate(1 / self.every_s), self._lose)

    def _lose(self) -> None:
        now = self.workers.now()
        self.workers.leave(self.random.choice(sorted(self.workers.nodes)))
        self.workers.at(now + self.args.replaced_s, lambda: self.workers.join(next(self.names), self.slots))
        self.workers.at(now + self.random.expovariate(1 / self.every_s), self._lose)

    def _listen(self, event: Event) -> None:
        self.retries += event.kind == "retry"
        if event.kind == "done":
            self.ended[event.stage] = self.workers.now()

    def _queue(self, task: StageTask) -> str:
        return "cpu" if not STAGES[task.stage].gpu and "cpu-workers" not in self.args.without else "main"

    def run(self) -> dict[str, float]:
        """Run, and return which share of the GPUs' time was work: until the images exist, until the end, while held.

        GPUs without tasks are released, so that a run may hold fewer than the cluster has.
        """
        tasks = [task for group in self.plan.tasks.values() for task in group]
        missing = {unit.ref for task in tasks for unit in task.units}
        # Simulated students report no epochs, and a lost node is replaced.
        patient = self.plan.config.ray.model_copy(update={"silence_s": 1e9, "start_timeout_s": 1800.0})
        early = set() if "early" in self.args.without else {"cpu"}
        scheduler = Scheduler(self.workers, patient, self._listen, early=early)
        scheduler.run(Board(tasks, missing, self._queue))
        scheduler.close()
        images, whole = max(self.ended[stage] for stage in IMAGE_STAGES), self.workers.now()
        begun = {(task.stage, task.name): (moment, task) for moment, _, task in self.workers.assigned}  # last attempts
        spans = [(moment, self.seconds(task, "")) for moment, task in begun.values() if STAGES[task.stage].gpu]

        def efficiency(until: float) -> float:
            return round(sum(max(0.0, min(took, until - moment)) for moment, took in spans) / (until * self.gpus), 3)

        return {
            "images_s": round(images, 1),
            "images_efficiency": efficiency(images),
            "run_s": round(whole, 1),
            "run_efficiency": efficiency(whole),
            "held_efficiency": round(sum(took for _, took in spans) / self.workers.held_s["main"], 3),
            "retries": self.retries,
        }


def main() -> None:
    """Simulate every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a finished run whose units' spread is used")
    parser.add_argument("--tflops", type=float, default=GPU_FLOPS_PER_S / 1e12, help="assumed rate of one GPU")
    parser.add_argument("--start-s", type=float, default=12.0, help="from a worker's placement to its first task")
    parser.add_argument("--overhead-s", type=float, default=0.01, help="of the scheduler and the store, per task")
    parser.add_argument("--replaced-s", type=float, default=300.0, help="until a lost node is replaced")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--ipc", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--without", nargs="+", default=[], choices=["early", "cpu-workers"])
    args = parser.parse_args()
    spread = measured(args.run)
    for ipc in args.ipc:
        plan = make_plan(ipc)
        seconds = durations(plan, spread, args.tflops * 1e12)
        for gpus in args.gpus:
            calm = Simulation(plan, seconds, gpus, args, 0.0).run()
            stormy = Simulation(plan, seconds, gpus, args, 0.01).run()
            loss = {"run_s_ratio": round(stormy["run_s"] / calm["run_s"], 4), "retries": stormy["retries"]}
            assumed = {name: getattr(args, name) for name in ("tflops", "start_s", "overhead_s", "without")}
            tasks = sum(map(len, plan.tasks.values()))
            report("scaling", ipc=ipc, gpus=gpus, tasks=tasks, **calm, losing_1_percent_an_hour=loss, assumed=assumed)


if __name__ == "__main__":
    main()
