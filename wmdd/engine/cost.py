"""What a run costs, estimated before it starts: seconds of this machine's CPU, GPU hours, and bytes of store.

A task's seconds on the CPU are those of its network operations at the rate of the chip, and a time for each step. Rates
are measured on whole stages; the rate of a GPU is assumed, because nothing was measured on one.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from wmdd.cpus import bf16_unit, compute_cpus
from wmdd.engine.task import Plan, StageTask
from wmdd.engine.work import Passes, Workload
from wmdd.stages import STAGES
from wmdd.storage.store import ArtifactRef
from wmdd.text import rough_bytes, rough_time, two_digits

GPU_FLOPS_PER_S = 50e12  # assumed

# FLOP/s of one core by what computes on it: of networks of at most `SMALL`, and of at least `LARGE` FLOP for an image,
# as ConvNet-3 and ResNet-18 are. With AMX they are means of whole stages (ResNet-18: 160e9 in recovery, 350e9 in
# relabelling); with AVX-512 they lie between an Intel and an AMD chip; in fp32 they are those of a chip with AVX-512.
CPU_FLOPS_PER_S = {"AMX bf16": (80e9, 220e9), "AVX-512 bf16": (70e9, 130e9), "fp32": (45e9, 100e9)}
SMALL, LARGE = 0.03e9, 1e9
STEP_S = 5e-3  # of a step, besides its network
PRODUCT_S = 1e-8  # of an image, an atom and a feature, in the whole search for a barycenter
IMAGE_S, PIXEL_S = 1.5e-4, 1.6e-8  # of decoding
START_S = 10.0  # of imports, Ray and its workers


@dataclass(frozen=True)
class StageCost:
    """What a stage costs.

    Args:
        units: that it computes.
        flops: floating-point operations of its networks.
        elapsed_s: on all CPU cores of this machine.
        decoding_s: of one core that decodes real images.
        stored_bytes: that it adds to the store.
        snapshot_bytes: that the store holds, besides, while the stage runs.
    """

    units: int
    flops: float
    elapsed_s: float
    decoding_s: float
    stored_bytes: int
    snapshot_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a run costs, to within a factor of about two.

    Args:
        stages: by name, those that compute something.
        cores: of this machine's CPU.
        chip: what computes on them, a key of `CPU_FLOPS_PER_S`.
    """

    stages: dict[str, StageCost]
    cores: int
    chip: str

    @property
    def flops(self) -> float:
        """Floating-point operations of networks."""
        return sum(stage.flops for stage in self.stages.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds on all CPU cores of this machine, with the start."""
        return sum(stage.elapsed_s for stage in self.stages.values()) + (START_S if self.stages else 0.0)

    @property
    def gpu_s(self) -> float:
        """Seconds of one GPU at the assumed rate, which networks of small images do not reach."""
        return self.flops / GPU_FLOPS_PER_S

    @property
    def decoding_s(self) -> float:
        """Seconds of one CPU core that decodes real images."""
        return sum(stage.decoding_s for stage in self.stages.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes that the run adds to the store."""
        return sum(stage.stored_bytes for stage in self.stages.values())

    @property
    def peak_bytes(self) -> int:
        """Bytes that it adds at most, with snapshots, which are removed with the end of their task."""
        return self.stored_bytes + max((stage.snapshot_bytes for stage in self.stages.values()), default=0)

    def lines(self) -> list[str]:
        """Describe it for the user."""
        if not self.stages:
            return []
        cores = f"{self.cores} core{'s' * (self.cores > 1)}"
        rate = f"an assumed {GPU_FLOPS_PER_S / 1e12:.0f} TFLOP/s; nothing was measured on a GPU yet"
        decoding = f", besides {rough_time(self.decoding_s)} of a CPU core to decode images" * (self.decoding_s >= 60)
        return [
            f"on this CPU: about {rough_time(self.elapsed_s)} on {cores} that no other program uses (measured rates, "
            f"{self.chip})",
            f"on one GPU: about {rough_time(self.gpu_s)} for {two_digits(self.flops / 1e15)} PFLOP ({rate}){decoding}",
            f"store: about {rough_bytes(self.stored_bytes)} more, {rough_bytes(self.peak_bytes)} while it runs",
        ]


def cost_of(plan: Plan, missing: Collection[ArtifactRef]) -> Cost:
    """Estimate the cost of computing those of a plan's artifacts that are missing.

    Raises:
        ConfigError: if a network cannot be built.
    """
    work, cores = Workload(plan), compute_cpus()
    has_bf16 = bf16_unit() and plan.config.runtime.precision != "fp32"
    chip = f"{bf16_unit()} bf16" if has_bf16 else "fp32"
    to_run = {name: _to_run(tasks, missing) for name, tasks in plan.tasks.items()}
    stages = {name: _stage_cost(work, tasks, cores, chip) for name, tasks in to_run.items() if tasks}
    return Cost(stages, cores, chip)


def _to_run(tasks: Collection[StageTask], missing: Collection[ArtifactRef]) -> list[StageTask]:
    """Return tasks without the units that are there; those of one computation are all run if any is missing."""
    remaining = []
    for task in tasks:
        absent = tuple(unit for unit in task.units if unit.ref in missing)
        if absent:
            remaining.append(task if STAGES[task.stage].joint else replace(task, units=absent))
    return remaining


def _stage_cost(work: Workload, tasks: list[StageTask], cores: int, chip: str) -> StageCost:
    passes = [item for task in tasks for item in work.passes(task)]
    seconds = [_core_s(work, task, chip) for task in tasks]
    # Teachers train on all cores; of other tasks each has one, so that a single task leaves cores idle.
    at_once = cores if tasks[0].stage == "pretrain" else min(cores, len(tasks))
    workers = 1 if tasks[0].stage == "pretrain" else at_once
    return StageCost(
        units=sum(len(task.units) for task in tasks),
        flops=sum(item.flops for item in passes),
        elapsed_s=sum(seconds) / at_once,
        decoding_s=sum(_decoding_s(work, task) for task in tasks),
        stored_bytes=sum(map(work.stored_bytes, tasks)),
        snapshot_bytes=sum(sorted(map(work.snapshot_bytes, tasks))[-workers:]),
    )


def _core_s(work: Workload, task: StageTask, chip: str) -> float:
    """Return the seconds of a task on one core."""
    networks = sum(STEP_S * item.steps + item.flops / _flops_per_s(item, chip) for item in work.passes(task))
    return networks + _decoding_s(work, task) + PRODUCT_S * work.products(task)


def _decoding_s(work: Workload, task: StageTask) -> float:
    images, pixels = work.decoded(task)
    return IMAGE_S * images + PIXEL_S * pixels


def _flops_per_s(passes: Passes, chip: str) -> float:
    """Return the rate of one core for a network: between those of small and large ones by its logarithmic size."""
    low, high = CPU_FLOPS_PER_S[chip]
    share = math.log(passes.network.flops / SMALL) / math.log(LARGE / SMALL)
    return float(low * (high / low) ** min(1.0, max(0.0, share)))
