"""Steps: a recovery step of ResNet-18, against a plain loop and against the card's limit, and its compilation."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.device import Trace, ceilings_tflops, open_runtime, peak_memory
from benchmarks.gpu.plain_loop import PlainLoop
from benchmarks.gpu.steps import Setting, Tell
from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.config.sections import RecoverConfig
from wmdd.errors import ConfigError
from wmdd.method.recovery import RECORDS, Target, recover_images
from wmdd.models.registry import skeleton
from wmdd.models.teacher import Teacher
from wmdd.outputs import Progress
from wmdd.runtime import Runtime, compiler_failure

ROUNDS, IPC, STEPS = 3, 10, 40
IMAGES = 100
NOT_COMPILED = "wmdd, not compiled"
PLAIN = ("plain, fp32", "plain, TF32")
Ways = dict[str, Callable[[], float]]


def warm(setting: Setting, tell: Tell, sizes: list[int]) -> None:
    """Compile recovery at each size, beside another step, so that later steps find it in torch's cache on disk."""
    figures: dict[str, float] = {}
    cache = "warm" if any(Path(cache_dir()).glob("fxgraph/*")) else "cold"
    tell(cache=cache)
    for size in sizes:
        case = _Case(setting, size, IMAGES)
        next(case.events(case.plainly()))  # the device and its libraries are loaded before the clock runs
        if failure := compiler_failure(case.runtime.device):
            tell(compiler_failure=failure, result="torch cannot compile here")
            return
        begun = time.perf_counter()
        next(case.events(case.runtime))
        figures[f"{size} px"] = round(time.perf_counter() - begun, 1)
        shown = ", ".join(f"{name} {seconds:g}" for name, seconds in figures.items())
        tell(first_step_s=figures, result=f"seconds until the first compiled step ({cache} cache): {shown}")


def run(setting: Setting, tell: Tell, size: int, more: int) -> None:
    """Time steps of 100 images of `size` px and then of `more`, alternating the ways of computing in one process."""
    case = _Case(setting, size, IMAGES)
    rates = _Rates(case.gflop_per_image(), ceilings_tflops(setting), case.runtime.bf16)
    tell(model=case.model, size_px=case.size, images=case.images, gflop_per_image=round(rates.gflop, 3))
    tell(ceilings_tflops=rates.ceilings)
    ways = case.ways()
    # First what needs no compiler: compilation may take all the time that is left, or not work here.
    for ms in _alternate(ways, 1):
        _tell(tell, rates, ms, case.images)
    try:
        tell(first_step_s=case.compile())
        ways = {"wmdd": case.timed(case.runtime), **ways}
    except ConfigError as exc:
        tell(compiler_failure=str(exc))
        case.runtime = case.plainly()
    for ms in _alternate(ways, ROUNDS):
        _tell(tell, rates, ms, case.images)
    tell(profile=case.profile())
    ways.clear()  # their images and networks are none of a run's
    memory: dict[str, float] = {}
    with peak_memory(case.runtime, memory):
        case.timed(case.runtime)()
    tell(memory=memory)
    # Not compiled, as that would take longer than all else: the same way at both numbers tells whether 100 fill a GPU.
    larger = _Case(setting, size, more)
    ms = {NOT_COMPILED: 1e3 * min(larger.timed(larger.plainly())() for _ in range(2))}
    tell(more_images={"images": larger.images, **rates.figures(ms, larger.images)[NOT_COMPILED]})


class _Case:
    """A number of images of a network's size, and the ways in which their recovery is timed."""

    def __init__(self, setting: Setting, size: int, images: int) -> None:
        self.runtime = dataclasses.replace(open_runtime(setting), compile=True)  # also in a rehearsal on the CPU
        self.model, self.size = ("convnet1_w8", 16) if setting.toy else ("resnet18", size)
        ipc = 2 if setting.toy else IPC
        self.images = 4 if setting.toy else images
        self._steps = 5 if setting.toy else STEPS
        self._teacher: Teacher = untrained_teacher(self.model, self.size, self.images // ipc)
        self._targets: list[Target] = random_targets(self._teacher, ipc)

    def plainly(self) -> Runtime:
        """Return the runtime without compilation."""
        return dataclasses.replace(self.runtime, compile=False)

    def gflop_per_image(self) -> float:
        """Return the operations of a forward pass and of the gradient of the pixels of one image, 1e9."""
        network = skeleton(self.model, 10, self.size).eval().requires_grad_(False)
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
        return (
            event
            for event in recover_images(section, self._teacher, self._targets, runtime)
            if isinstance(event, Progress)
        )

    def compile(self) -> dict[str, float]:
        """Compile; return the seconds until the first step is done, and those of another start.

        Raises:
            ConfigError: if torch cannot compile, here or this network.
        """
        if failure := compiler_failure(self.runtime.device):
            raise ConfigError(failure)
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            next(self.events(self.runtime))
            seconds.append(round(time.perf_counter() - begun, 2))
        return {"first": seconds[0], "again": seconds[1]}

    def timed(self, runtime: Runtime) -> Callable[[], float]:
        """Return what times a step: the mean of those between two events, s."""

        def seconds() -> float:
            events = self.events(runtime)
            first, begun = next(events), time.perf_counter()
            second = next(events)
            return (time.perf_counter() - begun) / (second.done - first.done)

        return seconds

    def ways(self) -> Ways:
        """Return what needs no compiler: wmdd, also in fp32, and the plain loops."""
        found: Ways = {
            NOT_COMPILED: self.timed(self.plainly()),
            "wmdd, fp32": self.timed(dataclasses.replace(self.plainly(), bf16=False)),
        }
        for name, tf32 in (("plain, fp32", False), ("plain, TF32", True)):
            teacher = untrained_teacher(self.model, self.size, len(self._targets))
            loop = PlainLoop(teacher, self._targets, self.runtime.device, tf32=tf32)
            loop.seconds_per_step(1)  # kernels are chosen and loaded at the first call
            found[name] = functools.partial(loop.seconds_per_step, self._steps)
        return found

    def profile(self) -> dict[str, Any]:
        """Return what the device did in some steps: the operators that took most, and the share of time without any."""
        events = self.events(self.runtime)
        first = next(events)
        with Trace(self.runtime) as trace:
            second = next(events)
        busy = trace.busy_share()
        idle = None if busy is None else round(1 - busy, 3)
        return {"steps": second.done - first.done, "idle_share": idle, "top": trace.top()}


def _alternate(ways: Ways, rounds: int) -> Iterator[dict[str, float]]:
    """Time one way after another; yield the least milliseconds of each so far, after each round."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = min(best.get(name, math.inf), 1e3 * way())
        yield best


@dataclasses.dataclass(frozen=True)
class _Rates:
    """From milliseconds to rates.

    Args:
        gflop: 1e9 floating-point operations of a step for one image.
        ceilings: of matrix products by precision, TFLOP/s.
        bf16: whether recovery runs in bf16 here.
    """

    gflop: float
    ceilings: dict[str, float]
    bf16: bool

    def figures(self, ms: dict[str, float], images: int) -> dict[str, dict[str, Any]]:
        """Return each way's rate, its share of the ceiling of its precision, and how it compares with the others."""
        found: dict[str, dict[str, Any]] = {}
        for name, value in ms.items():
            rate, precision = self.gflop * images / value, self._precision(name)
            share = rate / self.ceilings[precision]
            found[name] = {"ms": round(value, 3), "tflops": round(rate, 3), "precision": precision}
            found[name] |= {"share_of_ceiling": round(share, 3)}
            found[name] |= {f"times {other}": round(ms[other] / value, 2) for other in PLAIN if other in ms}
        return found

    def _precision(self, name: str) -> str:
        precision = name.partition(", ")[2]
        return precision if precision in self.ceilings else "bf16" if self.bf16 else "fp32"


def _tell(tell: Tell, rates: _Rates, ms: dict[str, float], images: int) -> None:
    figures = rates.figures(ms, images)
    name = "wmdd" if "wmdd" in figures else NOT_COMPILED
    ours, like = figures[name], figures["wmdd, fp32"]
    tell(
        ways=figures,
        result=f"{images} images, {name} in {ours['precision']}: {ours['ms']:g} ms, {ours['tflops']:g} TFLOP/s, "
        f"{ours['share_of_ceiling']:.0%} of the ceiling\n"
        f"{ours['times plain, TF32']:g} times as fast as the plain loop in TF32, {ours['times plain, fp32']:g} as in "
        f"fp32; both in fp32: {like['times plain, fp32']:g}",
    )
