"""Step: a recovery step of ResNet-18, against a plain loop and against the card's limit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.device import Trace, ceiling_tflops, open_runtime, peak_memory
from benchmarks.gpu.plain_loop import PlainLoop
from benchmarks.gpu.steps import Setting, Tell
from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.events import Progress
from wmdd.models.registry import skeleton
from wmdd.runtime import Runtime
from wmdd.sections import RecoverConfig
from wmdd.synthesis import Recovered, Target, recover_images
from wmdd.types import Teacher

ROUNDS, IPC = 3, 10
SECTION = RecoverConfig()  # the released weights and views, over 2,000 steps


def run(setting: Setting, tell: Tell, size: int, more: int) -> None:
    """Time steps of 100 images of `size` px and then of `more`, alternating the ways of computing in one process."""
    case = _Case("convnet1_w8" if setting.toy else "resnet18", 16 if setting.toy else size, setting)
    images, steps = (4, 3) if setting.toy else (100, 30)
    tell(model=case.model, size_px=case.size, images=images, compiles=case.runtime.compile)
    gflop = case.gflop_per_image()
    ceiling = ceiling_tflops(setting, torch.bfloat16, 4096)
    tell(gflop_per_image=round(gflop, 3), ceiling_tflops=round(ceiling, 2))
    tell(first_step_s=case.first_step_s(images))
    ms = {name: 1e3 * min(times) for name, times in _alternate(case.ways(images), ROUNDS, steps).items()}
    figures = _figures(ms, gflop * images / 1e3, ceiling)
    tell(ways=figures, result=_result(figures, images))
    tell(profile=case.profile(images, steps))
    memory: dict[str, float] = {}
    with peak_memory(memory):
        case.step_s(images, steps)
    tell(memory=memory)
    # Not compiled, as that would take longer than all else: the same way at both numbers tells whether 100 fill a GPU.
    count = images if setting.toy else more
    ms_more = 1e3 * case.step_s(count, steps, compiled=False)
    tell(more_images={"images": count, **_figures({"wmdd, not compiled": ms_more}, gflop * count / 1e3, ceiling)})


@dataclasses.dataclass(eq=False)
class _Case:
    """A network, an image size, and the ways in which their recovery is timed."""

    model: str
    size: int
    setting: Setting

    def __post_init__(self) -> None:
        self.runtime = open_runtime(self.setting, compile="on" if self.setting.toy else "auto")
        self._made: dict[int, tuple[Teacher, list[Target]]] = {}

    def _inputs(self, images: int) -> tuple[Teacher, list[Target]]:
        if images not in self._made:
            ipc = 2 if self.setting.toy else IPC
            teacher = untrained_teacher(self.model, self.size, images // ipc)
            self._made[images] = teacher, random_targets(teacher, ipc)
        return self._made[images]

    def gflop_per_image(self) -> float:
        """Count forward pass and gradient of the pixels, 1e9 floating-point operations for one image."""
        network = skeleton(self.model, 10, self.size).eval().requires_grad_(False)
        pixels = torch.empty(1, 3, self.size, self.size, device=next(network.parameters()).device, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            network(pixels).sum().backward()
        return counter.get_total_flops() / 1e9

    def first_step_s(self, images: int) -> dict[str, float]:
        """Return the seconds until the first step is done, with its compilation and once more without."""
        seconds = [self._timed(images, 2, self.runtime)[0] for _ in range(2)]
        return {"first": round(seconds[0], 2), "again": round(seconds[1], 2)}

    def step_s(self, images: int, steps: int, *, compiled: bool = True) -> float:
        """Return the seconds of a step as a run has it, or not compiled."""
        runtime = self.runtime if compiled else dataclasses.replace(self.runtime, compile=False)
        return self._timed(images, steps, runtime)[1]

    def _timed(self, images: int, steps: int, runtime: Runtime) -> tuple[float, float]:
        """Return the seconds until the first step is done, and those of each further step."""
        teacher, targets = self._inputs(images)
        marks = [time.perf_counter()]
        for event in recover_images(SECTION, teacher, targets, runtime, until=steps + 1):
            if isinstance(event, Recovered) or (isinstance(event, Progress) and event.done == 0):
                marks.append(time.perf_counter())  # both wait for the device
        begun, first, end = marks
        return first - begun, (end - first) / steps

    def ways(self, images: int) -> dict[str, Callable[[int], float]]:
        """Return what is compared: from a number of steps to the seconds of each."""
        as_run = self.runtime

        def ours(runtime: Runtime) -> Callable[[int], float]:
            return lambda steps: self._timed(images, steps, runtime)[1]

        targets = self._inputs(images)[1]
        teacher = untrained_teacher(self.model, self.size, len(targets))
        loops = {tf32: PlainLoop(teacher, targets, as_run.device, tf32=tf32) for tf32 in (False, True)}
        return {
            "wmdd": ours(as_run),
            "wmdd, not compiled": ours(dataclasses.replace(as_run, compile=False)),
            "wmdd, fp32": ours(dataclasses.replace(as_run, compile=False, bf16=False)),
            "plain, fp32": loops[False].seconds_per_step,
            "plain, TF32": loops[True].seconds_per_step,
        }

    def profile(self, images: int, steps: int) -> dict[str, Any]:
        """Return what the device did in some steps: the operators that took most, and the share of time without any."""
        teacher, targets = self._inputs(images)
        events = recover_images(SECTION, teacher, targets, self.runtime, until=steps + 1)
        next(events)
        with Trace() as trace:
            list(events)
        busy = trace.busy_share()
        return {"steps": steps, "idle_share": None if busy is None else round(1 - busy, 3), "top": trace.top()}


def _alternate(ways: dict[str, Callable[[int], float]], rounds: int, steps: int) -> dict[str, list[float]]:
    for way in ways.values():
        way(1)  # kernels are chosen and loaded at the first call
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(way(steps))
    return times


def _figures(ms: dict[str, float], tflop: float, ceiling: float) -> dict[str, dict[str, float]]:
    """Return for each way its rate, and how many times as fast it is as each plain loop."""
    found = {}
    for name, value in ms.items():
        rate = tflop / value * 1e3
        found[name] = {"ms": round(value, 3), "tflops": round(rate, 3), "share_of_ceiling": round(rate / ceiling, 3)}
        plain = {other: ms[other] for other in ms if other.startswith("plain")}
        found[name] |= {f"speed against {other}": round(theirs / value, 2) for other, theirs in plain.items()}
    return found


def _result(figures: dict[str, dict[str, float]], images: int) -> str:
    ours = figures["wmdd"]
    return (
        f"{images} images: {ours['ms']:g} ms a step, {ours['tflops']:g} TFLOP/s, {ours['share_of_ceiling']:.0%} of the "
        f"ceiling; {ours['speed against plain, TF32']:g} times the plain loop with TF32, "
        f"{ours['speed against plain, fp32']:g} times it in fp32"
    )
