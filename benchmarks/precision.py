"""Step: bf16 against fp32 for each network and pass, on chips with and without bf16 instructions.

On the CPU each kind of chip is this one with oneDNN limited to older instructions, which it reads once per process; so
each is measured in another process. It shows what `wmdd.cpus.bf16_on_cpu` decides by the CPU's flags.
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.device import open_runtime, synchronize
from benchmarks.steps import Record, Setting
from wmdd.cpus import cpu_flags
from wmdd.models.registry import build_model
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree

ROUNDS = 2
LIMIT = "ONEDNN_MAX_CPU_ISA"
# The flag without which this CPU cannot stand for a chip, by oneDNN's name of the limit.
CHIPS = {"AVX512_CORE_AMX": "amx_bf16", "AVX512_CORE_BF16": "avx512_bf16", "AVX512_CORE": "avx512f"}
CASES = (("resnet18", 32, 10), ("mobilenet_v2", 32, 20), ("convnet3_w64", 32, 25), ("convnet1_w8", 16, 100))
TOY_CASES = (("convnet1_w8", 8, 4),)
Speeds = dict[str, dict[str, float]]


def run(setting: Setting, record: Record) -> None:
    """Record for each chip, network and pass how many times as fast bf16 is as fp32."""
    figures: dict[str, Speeds] = {}
    chips = ["this GPU"] if setting.device == "cuda" else [name for name, flag in CHIPS.items() if flag in cpu_flags()]
    for chip in chips or ["this CPU"]:
        figures[chip] = _limited(chip, setting) if chip in CHIPS else speeds(setting)
        record(ways=figures, result="\n".join(_lines(figures)))


def _lines(figures: dict[str, Speeds]) -> list[str]:
    return [
        f"{chip}, {case}, bf16 times as fast as fp32: "
        + ", ".join(f"{name} {ratio:g}" for name, ratio in passes.items())
        for chip, cases in figures.items()
        for case, passes in cases.items()
    ]


def _limited(chip: str, setting: Setting) -> Speeds:
    """Measure in a process whose oneDNN uses no instructions beyond a chip's."""
    # A forked process has torch already, and oneDNN has not been used in this one.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_speeds, args=(chip, setting, theirs))
    process.start()
    theirs.close()
    measured: Speeds = json.loads(ours.recv_bytes())
    process.join()
    return measured


def _send_speeds(chip: str, setting: Setting, pipe: Connection) -> None:
    os.environ[LIMIT] = chip
    pipe.send_bytes(json.dumps(speeds(setting)).encode())


def speeds(setting: Setting) -> Speeds:
    """Return the seconds in fp32 over those in bf16, by network and pass."""
    runtime = open_runtime(setting)
    ratios: Speeds = {}
    precisions = (False, True)
    clock = time.process_time if runtime.device.type == "cpu" else time.perf_counter
    for model, size, images in TOY_CASES if setting.toy else CASES:
        by_precision = {
            bf16: _passes(dataclasses.replace(runtime, bf16=bf16), model, size, images) for bf16 in precisions
        }
        least: dict[tuple[str, bool], float] = {}
        for _ in range(ROUNDS + 1):  # kernels are chosen and loaded in the first round, which is never the least
            for bf16, passes in by_precision.items():
                for name, once in passes.items():
                    least[name, bf16] = min(least.get((name, bf16), math.inf), _seconds(once, clock))
        ratios[f"{model}, {size} px"] = {
            name: round(least[name, False] / least[name, True], 2) for name in by_precision[True]
        }
    return ratios


def _seconds(once: Callable[[], Any], clock: Callable[[], float]) -> float:
    synchronize()
    begun = clock()
    once()
    synchronize()
    return clock() - begun


def _passes(runtime: Runtime, model: str, size: int, images: int) -> dict[str, Callable[[], Any]]:
    """Return labelling's forward pass, recovery's pass to the pixels and a training step of a network."""
    with SeedTree(0).scoped():
        frozen = runtime.place(build_model(model, 10, size)).eval().requires_grad_(False)
        trained = runtime.place(build_model(model, 10, size)).train()
    pixels = runtime.images(torch.randn(images, 3, size, size, generator=SeedTree(0).child("pixels").torch()))
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-4)

    def loss(network: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        with runtime.autocast():
            return network(inputs).float().square().mean()

    def forward() -> None:
        with torch.no_grad():
            loss(frozen, pixels)

    def recovery() -> None:
        torch.autograd.grad(loss(frozen, leaf), leaf)

    def training() -> None:
        optimizer.zero_grad()
        loss(trained, pixels).backward()
        optimizer.step()

    leaf = pixels.clone().requires_grad_(True)
    return {"forward": forward, "recovery": recovery, "training": training}
