"""How many CPU threads a teacher trains with, and whether they help it."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from wmdd.cpus import compute_cpus, free_cpus
from wmdd.distributed import Ranks
from wmdd.outputs import Note
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.training.trainer import Trainer

FLOPS_PER_THREAD = 0.5e9  # of a batch's forward pass; with less each, threads wait for each other longer than they work
COSTLY = 3.0
WATCHED_S = 10.0
SAMPLE = 16  # images of the step whose cost is measured


@dataclass(frozen=True)
class Batches:
    """The batches that a network trains on: images of each, height and width in pixels."""

    batch_size: int
    image_size: int


def choose_threads(network: nn.Module, batches: Batches, runtime: Runtime, ranks: Ranks) -> tuple[int, str]:
    """Return how many threads to train with, and a note if other programs made it fewer.

    As many as the process may use, as its work keeps busy, and as CPUs are free now. Sums of floats depend on the
    number, so it is chosen before the first step and kept.
    """
    if runtime.train_threads:
        return runtime.train_threads, ""
    usable = runtime.cpus or compute_cpus()
    if runtime.device.type != "cpu":
        return usable, ""
    pays = min(usable, max(1, int(_forward_flops(network, batches) / ranks.size / FLOPS_PER_THREAD)))
    # Processes that train together would see each other at work.
    free = pays if pays == 1 or ranks.size > 1 else min(pays, free_cpus(usable))
    if free == pays:
        return pays, ""
    return free, (
        f"trains with {free} CPU thread{'s' * (free > 1)} in place of {pays}: other programs keep the CPUs busy "
        "(runtime.train_threads sets the number)"
    )


def resumed_threads(written: int, runtime: Runtime) -> tuple[int, str]:
    """Return the number of threads of a resumed training, and a note if it is not the written one or does not fit."""
    asked, usable = runtime.train_threads, runtime.cpus or compute_cpus()
    if asked and asked != written:
        return asked, (
            f"goes on with {asked} CPU threads, as runtime.train_threads asks, and began with {written}: sums are "
            "rounded otherwise than in a run that was not interrupted"
        )
    if written > usable and runtime.device.type == "cpu":
        return written, (
            f"goes on with {written} CPU threads, as it began, on {usable} CPUs; runtime.train_threads={usable} is "
            "faster, but rounds sums otherwise"
        )
    return written, ""


def _forward_flops(network: nn.Module, batches: Batches) -> float:
    from torch.utils.flop_counter import FlopCounterMode  # imports triton where it is installed

    images = torch.zeros(2, 3, batches.image_size, batches.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).eval()(images)
    return float(counter.get_total_flops() * batches.batch_size / 2)


@dataclass
class CostWatch:
    """Compares what training steps cost with what they would cost on one thread.

    Args:
        work_s: CPU time of a step on one thread, which hardly depends on what else the machine does; 0: not watched.
    """

    unit: str
    threads: int
    work_s: float
    has_warned: bool = field(default=False, init=False)

    @staticmethod
    def begin(
        unit: str, network: nn.Module, batches: Batches, threads: int, runtime: Runtime, seeds: SeedTree
    ) -> CostWatch:
        """Measure a step of a copy of the network, if several threads are to train it on a CPU."""
        work_s = 0.0
        if threads > 1 and runtime.device.type == "cpu":
            with seeds.scoped():
                work_s = _step_s(runtime.place(copy.deepcopy(network)), batches, runtime)
            runtime.use_threads(threads)
        return CostWatch(unit, threads, work_s)

    def look(self, trainer: Trainer) -> Iterator[Note]:
        """Yield one note if steps have come to cost far more than their work."""
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
    for _ in range(2):  # the first one prepares kernels
        begun = time.thread_time()
        with runtime.autocast():
            logits = network(images)
        logits.float().sum().backward()
        seconds = time.thread_time() - begun
    return seconds * batches.batch_size / len(images)
