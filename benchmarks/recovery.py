"""Step: a recovery step of ResNet-18, against a plain loop, its network alone and the device's limit."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device import Trace, ceilings_tflops, open_runtime, peak_memory, synchronize
from benchmarks.plain_recovery import PlainLoop
from benchmarks.steps import Record, Setting
from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.config.base import Stem
from wmdd.config.recovery import RecoverConfig
from wmdd.errors import ConfigError
from wmdd.method.recovery import COMPILING, RECORDS, recover_images
from wmdd.models.registry import skeleton
from wmdd.models.teacher import Teacher
from wmdd.outputs import Progress
from wmdd.runtime import Runtime
from wmdd.runtime.compilation import OFF, ON, Compilation, compiler_failure
from wmdd.seeding import SeedTree

ROUNDS, IPC, STEPS = 3, 10, 40
IMAGES = 100
NOT_COMPILED, TIMED, GRAPHS = "wmdd, not compiled", "wmdd, not compiled, not deterministic", "wmdd, CUDA graphs"
FP32, NETWORK = "wmdd, fp32", "network alone"
PLAIN = {"plain, fp32": False, "plain, TF32": True}  # whether matrix products and convolutions round to TF32
Way = Callable[[], float]


def run(setting: Setting, record: Record, size: int, more: int, stem: Stem = "auto") -> None:
    """Time steps of 100 images of `size` px and then of `more`, alternating the ways of computing in one process."""
    case, ceilings = Case(setting, size, IMAGES, stem), ceilings_tflops(setting)
    record(model=case.model, stem=stem, size_px=case.size, images=case.images)
    record(gflop_per_image=round(case.gflop_per_image, 3))
    record(ceilings_tflops=ceilings)
    ways = case.ways()
    # First what needs no compiler: compilation may take all the time that is left, or not work here.
    for ms in alternate(ways, 1):
        _record(record, case.figures(ms, ceilings), case.images)
    if case.runtime.compilation == ON:
        ways = _compiled(case, record) | ways
    for ms in alternate(ways, ROUNDS):
        _record(record, case.figures(ms, ceilings), case.images)
    record(profile=case.profile())
    ways.clear()  # their images and networks are none of a run's
    record(memory=peak_memory(case.runtime, case.timed(case.runtime)))
    # Not compiled, as that would take longer than all else: the same way at both numbers shows whether 100 fill a GPU.
    larger = Case(setting, size, more, stem)
    ms = {NOT_COMPILED: 1e3 * min(larger.timed(larger.plainly())() for _ in range(2))}
    record(more_images={"images": larger.images, **larger.figures(ms, ceilings)[NOT_COMPILED]})


def _compiled(case: Case, record: Record) -> dict[str, Way]:
    """Return the compiled ways, after their compilation; none where torch cannot compile, here or this network."""
    try:
        if failure := compiler_failure(case.runtime.device):
            raise ConfigError(failure)
        record(first_step_s={name: round(case.first_step_s(case.runtime), 2) for name in ("first", "again")})
        return {"wmdd": case.timed(case.runtime)} | _graphs(case, record)
    except ConfigError as exc:
        record(compiler_failure=str(exc))
        case.runtime = case.plainly()
        return {}


def _graphs(case: Case, record: Record) -> dict[str, Way]:
    """Return the way whose steps are launched as CUDA graphs, after a try; none on a CPU, or where it fails."""
    if case.runtime.device.type != "cuda":
        return {}
    way = case.timed(dataclasses.replace(case.runtime, compilation=Compilation(0, 0, graphs=True, required=True)))
    try:
        way()
    except (RuntimeError, ConfigError) as exc:  # of capture, and of compilation
        record(graphs_failure=str(exc)[:500])
        return {}
    return {GRAPHS: way}


class Case:
    """A number of images of a network's size, and the ways in which their recovery is timed."""

    def __init__(self, setting: Setting, size: int, images: int, stem: Stem = "auto", model: str = "resnet18") -> None:
        self._on_cpu = setting.on == "cpu"
        # Also in a rehearsal of a GPU's steps on the CPU, where a run does not compile by itself.
        self.runtime = dataclasses.replace(open_runtime(setting), compilation=OFF if self._on_cpu else ON)
        self._stem: Stem = "auto" if setting.toy else stem
        self.model, self.size = ("convnet1_w8", 16) if setting.toy else (model, size)
        ipc = 2 if setting.toy else IPC
        self.images = 4 if setting.toy else images
        self._steps = 5 if setting.toy or self._on_cpu else STEPS
        self._teacher = self._untrained(self.images // ipc)
        self._targets = random_targets(self._teacher, ipc)

    def _untrained(self, classes: int) -> Teacher:
        return untrained_teacher(self.model, self.size, classes, self._stem)

    def plainly(self) -> Runtime:
        """Return the runtime without compilation."""
        return dataclasses.replace(self.runtime, compilation=OFF)

    def compiled(self) -> Runtime:
        """Return the runtime with compilation, also where a run does not compile by itself."""
        return dataclasses.replace(self.runtime, compilation=ON)

    @functools.cached_property
    def gflop_per_image(self) -> float:
        """Return the operations of a forward pass and of the gradient of the pixels of one image, 1e9."""
        network = skeleton(self.model, 10, self.size, stem=self._stem).eval().requires_grad_(False)
        pixels = torch.empty(1, 3, self.size, self.size, device=next(network.parameters()).device, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            network(pixels).sum().backward()
        return counter.get_total_flops() / 1e9

    def events(self, runtime: Runtime) -> Iterator[Progress]:
        """Recover; the first event comes after the first step, each further one after `STEPS` more."""
        # Recovery reports progress at every fifth of its RECORDS records: with these iterations, every STEPS steps.
        iterations = self._steps * RECORDS // 5
        runtime.enter()
        section = RecoverConfig(iterations=iterations)
        recovery = recover_images(section, self._teacher, self._targets, runtime)
        return (event for event in recovery if isinstance(event, Progress) and event.note != COMPILING)

    def first_step_s(self, runtime: Runtime, clock: Way = time.perf_counter) -> float:
        """Return the seconds until the first step is done, and before it the compilation if the runtime compiles."""
        begun = clock()
        next(self.events(runtime))
        return clock() - begun

    def timed(self, runtime: Runtime, clock: Way = time.perf_counter) -> Way:
        """Return what times a step: the mean of those between two events, s."""

        def seconds() -> float:
            events = self.events(runtime)
            first, begun = next(events), clock()
            second = next(events)
            return (clock() - begun) / (second.done - first.done)

        return seconds

    def ways(self) -> dict[str, Way]:
        """Return what needs no compiler: wmdd, also in fp32, its network alone, and the plain loops."""
        plainly, precisely = self.plainly(), dataclasses.replace(self.plainly(), bf16=False)
        ways = {NOT_COMPILED: self.timed(plainly), FP32: self.timed(precisely), NETWORK: self._network_alone()}
        if not self._on_cpu:  # what bit equality costs
            ways[TIMED] = self.timed(dataclasses.replace(plainly, deterministic=False))
        plain = {name: tf32 for name, tf32 in PLAIN.items() if not (tf32 and self._on_cpu)}
        return ways | {name: self._plain_loop(tf32) for name, tf32 in plain.items()}

    def _network_alone(self) -> Way:
        """Return what times the network's pass and the gradient of its images, which recovery cannot do without."""
        network = self.runtime.round_weights(self.runtime.place(self._untrained(len(self._targets)).network))
        shape = (self.images, 3, self.size, self.size)
        images = self.runtime.images(torch.randn(shape, generator=SeedTree(0).torch())).requires_grad_(True)

        def seconds() -> float:
            self.runtime.enter()
            for step in range(self._steps + 1):
                if step == 1:
                    synchronize()
                    begun = time.perf_counter()
                with self.runtime.autocast():
                    logits = network(images)
                torch.autograd.grad(logits.float().sum(), images)
            synchronize()
            return (time.perf_counter() - begun) / self._steps

        return seconds

    def _plain_loop(self, tf32: bool) -> Way:
        teacher = self._untrained(len(self._targets))
        loop = PlainLoop(teacher, self._targets, self.runtime.device, tf32=tf32)
        loop.seconds_per_step(1)  # kernels are chosen and loaded at the first call
        return functools.partial(loop.seconds_per_step, self._steps)

    def profile(self) -> dict[str, Any]:
        """Return what the device did in some steps: the operators that took most, and the share of time without any."""
        events = self.events(self.runtime)
        first = next(events)
        with Trace(self.runtime) as trace:
            second = next(events)
        busy = trace.busy_share()
        idle = None if busy is None else round(1 - busy, 3)
        return {"steps": second.done - first.done, "idle_share": idle, "top": trace.top()}

    def figures(self, ms: dict[str, float], ceilings: dict[str, float]) -> dict[str, dict[str, Any]]:
        """Return each way's rate, share of the ceiling (TFLOP/s) of its precision, and speed relative to the others."""
        figures = {}
        for name, value in ms.items():
            precision = name.partition(", ")[2]
            if precision not in ceilings:
                precision = "bf16" if self.runtime.bf16 else "fp32"
            rate = self.gflop_per_image * self.images / value
            figures[name] = {
                "ms": round(value, 3),
                "image_steps_per_s": round(1e3 * self.images / value, 1),
                "tflops": round(rate, 3),
                "precision": precision,
                "share_of_ceiling": round(rate / ceilings[precision], 3),
                "share_of_network": round(ms[NETWORK] / value, 3) if NETWORK in ms else None,
                **{f"times {other}": round(ms[other] / value, 2) for other in (FP32, TIMED, *PLAIN) if other in ms},
            }
        return figures


def alternate(ways: dict[str, Way], rounds: int) -> Iterator[dict[str, float]]:
    """Time one way after another; yield the least milliseconds of each so far, after each round."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = min(best.get(name, math.inf), 1e3 * way())
        yield best


def _record(record: Record, figures: dict[str, dict[str, Any]], images: int) -> None:
    name = "wmdd" if "wmdd" in figures else NOT_COMPILED
    ours, like = figures[name], figures[FP32]
    times = ", ".join(
        f"{ours[f'times {plain}']:g} in {plain.partition(', ')[2]}" for plain in PLAIN if plain in figures
    )
    record(
        ways=figures,
        result=f"{images} images, {name} in {ours['precision']}: {ours['ms']:g} ms, {ours['tflops']:g} TFLOP/s, "
        f"{ours['share_of_ceiling']:.0%} of the ceiling; {ours['share_of_network']:.0%} of it is the network alone\n"
        f"as fast as the plain loop, times: {times}; both in fp32: {like['times plain, fp32']:g}",
    )
