"""Steps: a recovery step of ResNet-18, against a plain loop and against the card's limit, and its compilation."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.device import Trace, ceiling_tflops, open_runtime, peak_memory
from benchmarks.gpu.plain_loop import PlainLoop
from benchmarks.gpu.steps import Setting, Tell
from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.errors import ConfigError
from wmdd.events import Progress
from wmdd.models.registry import skeleton
from wmdd.runtime import Runtime
from wmdd.sections import RecoverConfig
from wmdd.synthesis import RECORDS, Target, recover_images
from wmdd.types import Teacher

ROUNDS, IPC, STEPS = 3, 10, 40
IMAGES = 100
NOT_COMPILED = "wmdd, not compiled"
Ways = dict[str, Callable[[], float]]


def warm(setting: Setting, tell: Tell, sizes: list[int]) -> None:
    """Compile recovery at each size, beside another step, so that later steps find it in torch's cache on disk."""
    figures: dict[str, dict[str, float]] = {}
    for size in sizes:
        case = _Case(setting, size, IMAGES)
        begun = time.perf_counter()
        next(case.events(case.runtime))
        figures[f"{case.size} px"] = {"first_step_s": round(time.perf_counter() - begun, 1)}
        shown = ", ".join(f"{name} {found['first_step_s']:g} s" for name, found in figures.items())
        tell(compilation=figures, result=f"first step, compiled beside the tests: {shown}")


def run(setting: Setting, tell: Tell, size: int, more: int) -> None:
    """Time steps of 100 images of `size` px and then of `more`, alternating the ways of computing in one process."""
    case = _Case(setting, size, IMAGES)
    gflop, ceiling = case.gflop_per_image(), ceiling_tflops(setting, torch.bfloat16)
    tell(model=case.model, size_px=case.size, images=case.images, gflop_per_image=round(gflop, 3))
    tell(ceiling_tflops=round(ceiling, 2))
    tflop = gflop * case.images / 1e3
    ways = case.ways()
    # What cannot fail first: compilation may take all the time that is left, or not work here.
    for ms in _alternate(ways, 1):
        _tell(tell, ms, tflop, ceiling, case.images)
    try:
        tell(first_step_s=case.first_step_s())
        ways = {"wmdd": case.timed(case.runtime), **ways}
    except ConfigError as exc:
        tell(compiler_failure=str(exc))
    for ms in _alternate(ways, ROUNDS):
        _tell(tell, ms, tflop, ceiling, case.images)
    tell(profile=case.profile())
    memory: dict[str, float] = {}
    with peak_memory(case.runtime, memory):
        case.timed(case.runtime)()
    tell(memory=memory)
    # Not compiled, as that would take longer than all else: the same way at both numbers tells whether 100 fill a GPU.
    larger = _Case(setting, size, more)
    ms = {NOT_COMPILED: 1e3 * min(larger.timed(larger.plainly())() for _ in range(2))}
    figures = _figures(ms, gflop * larger.images / 1e3, ceiling)
    tell(more_images={"images": larger.images, **figures[NOT_COMPILED]})


class _Case:
    """A number of images of a network's size, and the ways in which their recovery is timed."""

    def __init__(self, setting: Setting, size: int, images: int) -> None:
        self.runtime = open_runtime(setting, compile="on" if setting.toy else "auto")
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
        """Count forward pass and gradient of the pixels, 1e9 floating-point operations for one image."""
        network = skeleton(self.model, 10, self.size).eval().requires_grad_(False)
        pixels = torch.empty(1, 3, self.size, self.size, device=next(network.parameters()).device, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            network(pixels).sum().backward()
        return counter.get_total_flops() / 1e9

    def events(self, runtime: Runtime) -> Iterator[Any]:
        """Recover; the first event comes after the first step, each further one after `STEPS` more."""
        iterations = self._steps * RECORDS // 5
        assert 5 * math.ceil(iterations / RECORDS) == self._steps
        runtime.enter()
        section = RecoverConfig(iterations=iterations)
        return (
            event
            for event in recover_images(section, self._teacher, self._targets, runtime)
            if isinstance(event, Progress)
        )

    def first_step_s(self) -> dict[str, float]:
        """Return the seconds until the first step is done: with its compilation, and once more without."""
        seconds = []
        for _ in range(2):
            begun = time.perf_counter()
            next(self.events(self.runtime))
            seconds.append(round(time.perf_counter() - begun, 2))
        return {"first": seconds[0], "again": seconds[1]}

    def timed(self, runtime: Runtime) -> Callable[[], float]:
        """Return what times a step: the mean of `STEPS`, between two looks at the loss, s."""

        def seconds() -> float:
            events = self.events(runtime)
            next(events)
            begun = time.perf_counter()
            next(events)
            return (time.perf_counter() - begun) / self._steps

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
            found[name] = lambda loop=loop: loop.seconds_per_step(self._steps)  # type: ignore[misc]
        return found

    def profile(self) -> dict[str, Any]:
        """Return what the device did in some steps: the operators that took most, and the share of time without any."""
        events = self.events(self.runtime)
        next(events)
        with Trace(self.runtime) as trace:
            next(events)
        busy = trace.busy_share()
        idle = None if busy is None else round(1 - busy, 3)
        return {"steps": self._steps, "idle_share": idle, "top": trace.top()}


def _alternate(ways: Ways, rounds: int) -> Iterator[dict[str, float]]:
    """Time one way after another; yield the least milliseconds of each so far, after each round."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = min(best.get(name, math.inf), 1e3 * way())
        yield best


def _figures(ms: dict[str, float], tflop: float, ceiling: float) -> dict[str, dict[str, float]]:
    """Return for each way its rate, and how many times as fast it is as each plain loop."""
    found = {}
    for name, value in ms.items():
        rate = tflop / value * 1e3
        found[name] = {"ms": round(value, 3), "tflops": round(rate, 3), "share_of_ceiling": round(rate / ceiling, 3)}
        plain = {other: ms[other] for other in ms if other.startswith("plain")}
        found[name] |= {f"speed against {other}": round(theirs / value, 2) for other, theirs in plain.items()}
    return found


def _tell(tell: Tell, ms: dict[str, float], tflop: float, ceiling: float, images: int) -> None:
    figures = _figures(ms, tflop, ceiling)
    name = "wmdd" if "wmdd" in figures else NOT_COMPILED
    ours = figures[name]
    tell(
        ways=figures,
        result=f"{name}, {images} images: {ours['ms']:g} ms a step, {ours['tflops']:g} TFLOP/s, "
        f"{ours['share_of_ceiling']:.0%} of the ceiling; {ours['speed against plain, TF32']:g} times the plain loop "
        f"with TF32, {ours['speed against plain, fp32']:g} times it in fp32",
    )
