"""The number of CPU threads of a teacher's training: chosen once, kept in snapshots, and watched for its cost."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from wmdd.cpus import busy_threads, compute_cpus, free_cpus
from wmdd.distributed import Ranks
from wmdd.models.size import NetworkSize
from wmdd.outputs import Note
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.training.trainer import Trainer

COSTLY = 3.0  # times the CPU time of the same steps on one thread
WATCHED_S = 10.0  # of steps before their cost is judged
SAMPLE = 16  # images of the step whose cost is measured


@dataclass(frozen=True)
class Batches:
    """The batches that a network trains on: number of images, and their height and width in pixels."""

    batch_size: int
    image_size: int


def choose_threads(network: NetworkSize, batches: Batches, runtime: Runtime, ranks: Ranks) -> tuple[int, str]:
    """Return the number of threads to train with, and a note if it is lower because of other programs.

    It is the least of: the CPUs that the process may use, the threads that its work keeps busy, and the CPUs that are
    free now. Rounding depends on the number, so it is chosen before the first step and kept.
    """
    if runtime.train_threads:
        return runtime.train_threads, ""
    usable = runtime.cpus or compute_cpus()
    if runtime.device.type != "cpu":
        return usable, ""
    busy = busy_threads(float(network.flops * batches.batch_size) / ranks.size, usable)
    # Processes that train together would see each other's load.
    free = busy if busy == 1 or ranks.size > 1 else min(busy, free_cpus(usable))
    if free == busy:
        return busy, ""
    return free, (
        f"trains with {free} CPU thread{'s' * (free > 1)} in place of {busy}: other programs keep the CPUs busy "
        "(runtime.train_threads sets the number)"
    )


def resumed_threads(written: int, runtime: Runtime) -> tuple[int, str]:
    """Return the number of threads of a resumed training, and a note if it differs from `written` or exceeds the CPUs.

    Args:
        written: in the snapshot.
    """
    option, usable = runtime.train_threads, runtime.cpus or compute_cpus()
    if option and option != written:
        return option, (
            f"continues with {option} CPU threads (runtime.train_threads) and began with {written}: sums are rounded "
            "differently than in a run that was not interrupted"
        )
    if written > usable and runtime.device.type == "cpu":
        return written, (
            f"continues with {written} CPU threads, as it began, on {usable} CPUs; runtime.train_threads={usable} is "
            "faster, but rounds sums differently"
        )
    return written, ""


@dataclass
class CostWatch:
    """Compares the cost of training steps with their cost on one thread.

    Args:
        unit: name of the teacher, for the note.
        work_s: CPU time of a step on one thread, which hardly depends on other programs; 0 to watch nothing.
    """

    unit: str
    threads: int
    work_s: float
    has_warned: bool = field(default=False, init=False)

    @staticmethod
    def begin(
        unit: str, network: nn.Module, batches: Batches, threads: int, runtime: Runtime, seeds: SeedTree
    ) -> CostWatch:
        """Return a watch, for which a step of a copy of the network is measured if several CPU threads train it."""
        work_s = 0.0
        if threads > 1 and runtime.device.type == "cpu":
            with seeds.scoped():
                work_s = _step_s(runtime.place(copy.deepcopy(network)), batches, runtime)
            runtime.use_threads(threads)
        return CostWatch(unit, threads, work_s)

    def look(self, trainer: Trainer) -> Iterator[Note]:
        """Yield a note, once, if steps cost far more than their work."""
        cost = trainer.cost
        if self.has_warned or not self.work_s or cost.wall_s < WATCHED_S:
            return
        ratio = max(cost.cpu_s, cost.wall_s) / cost.steps / self.work_s
        if ratio > COSTLY:
            self.has_warned = True
            yield Note(
                f"{self.unit} trains with {self.threads} CPU threads, which wait for each other: its steps take "
                f"{ratio:.0f} times the CPU time of their work, as on a busy machine; stop it, and start the same "
                "command with --runtime.train_threads 1"
            )


def _step_s(network: nn.Module, batches: Batches, runtime: Runtime) -> float:
    runtime.use_threads(1)
    images = runtime.images(torch.zeros(min(SAMPLE, batches.batch_size), 3, batches.image_size, batches.image_size))
    for _ in range(2):  # the first step prepares kernels
        begun = time.thread_time()
        with runtime.autocast():
            logits = network(images)
        logits.float().sum().backward()
        seconds = time.thread_time() - begun
    return seconds * batches.batch_size / len(images)
