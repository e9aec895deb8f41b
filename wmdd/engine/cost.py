"""What a run costs, estimated before it starts: seconds of this machine's CPU, GPU hours, and bytes of store.

A task's seconds on the CPU are those of its network operations at the rate of the chip, and a time for each step. Rates
are measured on whole stages; the rate of a GPU is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from wmdd.config.distill import DistillConfig
from wmdd.cpus import (
    BF16_UNITS,
    CPU_RECOVERY_PIXELS,
    bf16_flag,
    bf16_on_cpu,
    busy_threads,
    compute_cpus,
    cpu_flags,
    usable_cpus,
)
from wmdd.engine.run import workers_of
from wmdd.engine.task import Plan, StageTask
from wmdd.engine.work import FORWARD, Passes, Workload
from wmdd.stages import STAGES
from wmdd.storage.store import ArtifactRef
from wmdd.text import rough_bytes, rough_time, two_digits

GPU_FLOPS_PER_S = 50e12  # assumed
# Assumed: launching the kernels of a step takes as long, however small the network is. An H200 took 7 to 11 ms with
# ResNet-18, and 22 to 24 for recovery that is not compiled.
GPU_STEP_S = 5e-3

# FLOP/s of one core by what computes on it: of networks of at most `SMALL`, and of at least `LARGE` FLOP for an image,
# as ConvNet-3 and ResNet-18 are. With AMX they are means of whole stages: for a network of 0.07e9, 96e9 in training,
# 170e9 in recovery and 310e9 in relabelling (`benchmarks`). Those with AVX-512 bf16 are two thirds of what an AMD EPYC
# of 2025 reaches in whole stages (180e9 and 300e9), since chips before it have half its width. The others follow from
# AMX by the ratios of ``benchmarks/precision.py``.
CPU_FLOPS_PER_S = {
    "AMX bf16": (100e9, 260e9),
    "AVX-512 bf16": (120e9, 210e9),
    "fp32": (60e9, 120e9),
    "emulated bf16": (25e9, 40e9),
}
SMALL, LARGE = 0.03e9, 1e9
STEP_S, PASS_S = 2.5e-3, 1e-3  # of a step of an optimiser, and of a batch without one, besides its network
PRODUCT_S = 1e-8  # of an image, an atom and a feature, in the whole search for a barycenter
COMPILATION_S, COMPILED = 45.0, 0.7  # of recovery: once in a worker, and what a step then takes of its time before
IMAGE_S, PIXEL_S = 1.5e-4, 1.6e-8  # of decoding
START_S = 10.0  # of imports, Ray and its workers


@dataclass(frozen=True)
class StageCost:
    """What a stage costs.

    Args:
        units: that it computes.
        flops: floating-point operations of its networks.
        steps: of optimisers, and batches to label.
        cores: of this machine's CPU that it keeps busy at a time.
        elapsed_s: on these cores.
        decoding_s: of one core that decodes real images.
        stored_bytes: that it adds to the store.
        snapshot_bytes: that the store holds, besides, while the stage runs.
    """

    units: int
    flops: float
    steps: int
    cores: int
    elapsed_s: float
    decoding_s: float
    stored_bytes: int
    snapshot_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a run costs, to within a factor of about two.

    Args:
        stages: by name, those that compute something.
        chip: what computes on this machine's CPU, a key of `CPU_FLOPS_PER_S`.
    """

    stages: dict[str, StageCost]
    chip: str

    @property
    def cores(self) -> int:
        """Cores of this machine's CPU that it keeps busy at a time."""
        return max((stage.cores for stage in self.stages.values()), default=0)

    @property
    def flops(self) -> float:
        """Floating-point operations of networks."""
        return sum(stage.flops for stage in self.stages.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds on this machine's CPU, with the start."""
        return self._start_s + sum(stage.elapsed_s for stage in self.stages.values())

    @property
    def gpu_s(self) -> float:
        """Seconds on one GPU at the assumed rates, with the start."""
        steps = sum(stage.steps for stage in self.stages.values())
        return self._start_s + GPU_STEP_S * steps + self.flops / GPU_FLOPS_PER_S

    @property
    def _start_s(self) -> float:
        return START_S if self.stages else 0.0

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
        assumed = f"an assumed {GPU_FLOPS_PER_S / 1e12:.0f} TFLOP/s and {1e3 * GPU_STEP_S:.0f} ms a step"
        decoding = f", besides {rough_time(self.decoding_s)} of a CPU core to decode images" * (self.decoding_s >= 60)
        return [
            f"on this CPU: about {rough_time(self.elapsed_s)} on {cores} that no other program uses, "
            f"{START_S:.0f} s of it to start (measured rates, {self.chip})",
            f"on one GPU: about {rough_time(self.gpu_s)} for {two_digits(self.flops / 1e15)} PFLOP ({assumed}; "
            f"an H200 took 7 to 11 ms with ResNet-18){decoding}",
            f"store: about {rough_bytes(self.stored_bytes)} more, at most {rough_bytes(self.peak_bytes)} while it runs",
        ]


def cost_of(plan: Plan, missing: Collection[ArtifactRef]) -> Cost:
    """Estimate the cost of computing those of a plan's artifacts that are missing.

    Raises:
        ConfigError: if a network cannot be built.
    """
    work, chip = Workload(plan), _chip(plan.config)
    to_run = {name: _to_run(tasks, missing) for name, tasks in plan.tasks.items()}
    return Cost({name: _stage_cost(work, tasks, chip) for name, tasks in to_run.items() if tasks}, chip)


def _chip(config: DistillConfig) -> str:
    flags = cpu_flags()
    bf16, _ = bf16_on_cpu(config.runtime.precision, flags)
    return f"{BF16_UNITS.get(bf16_flag(flags), 'emulated')} bf16" if bf16 else "fp32"


def _to_run(tasks: Collection[StageTask], missing: Collection[ArtifactRef]) -> list[StageTask]:
    """Return tasks without the units that are there; those of one computation are all run if any is missing."""
    remaining = []
    for task in tasks:
        absent = tuple(unit for unit in task.units if unit.ref in missing)
        if absent:
            remaining.append(task if STAGES[task.stage].joint else replace(task, units=absent))
    return remaining


def _stage_cost(work: Workload, tasks: list[StageTask], chip: str) -> StageCost:
    passes = [item for task in tasks for item in work.passes(task)]
    at_once, cores = _tasks_at_once(work, tasks)
    return StageCost(
        units=sum(len(task.units) for task in tasks),
        flops=sum(item.flops for item in passes),
        steps=sum(item.steps for item in passes),
        cores=cores,
        elapsed_s=sum(_core_s(work, task, chip) for task in tasks) / cores + _compilation_s(work, tasks),
        decoding_s=sum(_decoding_s(work, task) for task in tasks),
        stored_bytes=sum(map(work.stored_bytes, tasks)),
        snapshot_bytes=sum(sorted(map(work.snapshot_bytes, tasks))[-at_once:]),
    )


def _tasks_at_once(work: Workload, tasks: list[StageTask]) -> tuple[int, int]:
    """Return how many tasks of a stage run at a time on a Ray of this machine, and the cores that they keep busy."""
    config, together = work.config, workers_of(tasks[0])
    if tasks[0].stage == "pretrain":  # one after the other, each worker with several threads
        flops = work.teacher_batch_flops(tasks[0]) / together
        threads = config.runtime.train_threads or busy_threads(flops, compute_cpus())
        return 1, min(usable_cpus(), together * threads)
    fit = max(1, int(usable_cpus() / config.ray.cpus_per_actor))
    workers = min(fit, config.ray.actors or fit)
    at_once = min(len(tasks), max(1, workers // together))  # a single task leaves cores idle
    return at_once, min(workers, at_once * together)


def _core_s(work: Workload, task: StageTask, chip: str) -> float:
    """Return the seconds of a task on one core."""
    networks = 0.0
    for item in work.passes(task):
        step_s = PASS_S if item.each == FORWARD else STEP_S
        networks += step_s * item.steps + item.flops / _flops_per_s(item, chip)
    networks *= COMPILED if _compilation_s(work, [task]) else 1
    return networks + _decoding_s(work, task) + PRODUCT_S * work.products(task)


def _compilation_s(work: Workload, tasks: list[StageTask]) -> float:
    """Return the seconds in which a worker compiles recovery; 0 if it does not."""
    setting = "off" if work.config.recover.uncompiled else work.config.runtime.compile
    largest = max(map(work.recovered_pixels, tasks), default=0.0)
    is_compiled = largest >= CPU_RECOVERY_PIXELS if setting == "auto" else bool(largest) and setting != "off"
    return COMPILATION_S if is_compiled else 0.0


def _decoding_s(work: Workload, task: StageTask) -> float:
    images, pixels = work.decoded(task)
    return IMAGE_S * images + PIXEL_S * pixels


def _flops_per_s(passes: Passes, chip: str) -> float:
    """Return the rate of one core for a network: between those of small and large ones by its logarithmic size."""
    low, high = CPU_FLOPS_PER_S[chip]
    share = math.log(passes.network.flops / SMALL) / math.log(LARGE / SMALL)
    return float(low * (high / low) ** min(1.0, max(0.0, share)))
