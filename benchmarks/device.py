"""The device under the benchmark: its ceiling, and the share of the time in which it works."""

from __future__ import annotations

import gc
import operator
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.steps import Setting
from wmdd.config.machines import RuntimeConfig
from wmdd.runtime import Runtime


def open_runtime(setting: Setting, **changes: Any) -> Runtime:
    """Open the runtime as a worker does."""
    runtime = Runtime.create(RuntimeConfig(device=setting.device, **changes))
    runtime.enter()
    return runtime


def synchronize() -> None:
    """Wait until the device has done all that was asked of it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def ceilings_tflops(setting: Setting) -> dict[str, float]:
    """Return the rates of a square matrix product of random numbers, by precision, TFLOP/s."""
    before = torch.backends.cuda.matmul.allow_tf32
    rates = {"bf16": _product_tflops(setting, torch.bfloat16)}
    for name, tf32 in (("TF32", True), ("fp32", False)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        rates[name] = _product_tflops(setting, torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = before
    return {name: round(rate, 3 if rate < 10 else 1) for name, rate in rates.items()}


def _product_tflops(setting: Setting, dtype: torch.dtype) -> float:
    """Multiply for half a second, after a start that chooses the kernel."""
    size, seconds = (256, 0.01) if setting.toy else (8192 if setting.on == "gpu" else 2048, 0.5)
    device = setting.device
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    left @ right
    synchronize()
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        for _ in range(5):
            left @ right
        synchronize()
        count += 5
    return count * 2 * size**3 / (time.perf_counter() - begun) / 1e12


def peak_memory(runtime: Runtime, work: Callable[[], Any]) -> dict[str, float]:
    """Return the most memory that tensors hold during some work, as ``peak_gib``; nothing on a CPU."""
    gc.collect()
    if runtime.device.type != "cuda":
        work()
        return {}
    torch.cuda.reset_peak_memory_stats()
    work()
    return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


class Trace:
    """A profile of what runs inside the ``with`` block, by `torch.profiler`: of the device alone, where there is one.

    Holds every kernel and takes some 50 us for each afterwards, so let it see little.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._cuda = runtime.device.type == "cuda"
        activity = ProfilerActivity.CUDA if self._cuda else ProfilerActivity.CPU
        if self._cuda:
            with profile(activities=[activity]):  # the first one of a process delays its first kernels
                torch.zeros(1, device=runtime.device).add_(1)
                synchronize()
        self._profile = profile(activities=[activity])

    def __enter__(self) -> Trace:
        synchronize()
        self._profile.__enter__()
        self._begun = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        synchronize()
        self.seconds = time.perf_counter() - self._begun
        self._profile.__exit__(*error)

    def busy_share(self) -> float | None:
        """Return the share of the time in which at least one kernel or copy ran; None where none was seen."""
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in self._profile.events() or ()
            if event.device_type == torch.autograd.DeviceType.CUDA
        )
        busy, until = 0.0, float("-inf")
        for start, end in spans:
            busy += max(0.0, end - max(start, until))
            until = max(until, end)
        return round(busy / 1e6 / self.seconds, 3) if spans else None

    def top(self) -> list[dict[str, Any]]:
        """Return the ten operators or kernels that take most time by themselves: name, share of all, calls."""
        time_of = operator.attrgetter("self_device_time_total" if self._cuda else "self_cpu_time_total")
        rows = sorted(self._profile.key_averages(), key=time_of, reverse=True)
        total_us = sum(map(time_of, rows)) or 1.0
        shares = [(row, round(time_of(row) / total_us, 3)) for row in rows[:10]]
        return [{"name": row.key[:100], "share": share, "calls": row.count} for row, share in shares]
