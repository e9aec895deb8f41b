"""Step: how long commands and workers take before they compute, and which imports take it.

The plain start is that of a script that only imports torch.
"""

from __future__ import annotations

import collections
import importlib.util
import re
import subprocess
import sys
import tempfile

from benchmarks.processes import FEW_STEPS, ROOT, Cost, cost, small_run
from benchmarks.steps import Record, Setting

TORCH = ("-c", "import torch")
# What a worker imports until it is ready; the process that it runs in has imported Ray.
WORKER = (
    "-c",
    "import ray, ray_jobs.actors; from wmdd.config.machines import RuntimeConfig; from wmdd.runtime import Runtime; "
    "Runtime.create(RuntimeConfig(device='cpu'))",
)
METHOD = ("--method", "random")  # whose first run takes least
ROUNDS = 3
SLOWEST = 6  # packages to name


def run(setting: Setting, record: Record) -> None:
    """Time each way in turn, several times, and then list what a plan and a worker import."""
    with tempfile.TemporaryDirectory() as folder:
        small_run(folder, *METHOD)
        ways: dict[str, Cost] = {}
        for number in range(1 if setting.toy else ROUNDS):
            for name, words in _commands(number).items():
                measured = cost(folder, *words)
                ways[name] = measured.least(ways.get(name, measured))
            _record(record, ways)
        imports = {name: _imports(folder, *_commands(0)[name]) for name in ("plan", "worker") if name in ways}
        record(imports_ms=imports)


def _commands(number: int) -> dict[str, tuple[str, ...]]:
    """Return Python's words for each way; a plan has another store in each round, which it indexes the set for."""
    commands = {
        "torch": TORCH,
        "help": ("-m", "wmdd", "--help"),
        "plan": ("-m", "wmdd", "plan", "digits", "--store", f"store-{number}"),
        "second run": ("-m", "wmdd", "distill", "digits", *FEW_STEPS, *METHOD, "--executor", "ray", "--run", "run"),
        "worker": WORKER,
    }
    if importlib.util.find_spec("ray") is None:
        del commands["second run"], commands["worker"]
    return commands


def _record(record: Record, ways: dict[str, Cost]) -> None:
    shares = {name: round(way.cpu_s / ways["torch"].cpu_s, 2) for name, way in ways.items()}
    shown = ", ".join(f"{name} {way.cpu_s:.2f}" for name, way in ways.items())
    record(
        ways={name: {"cpu_s": round(way.cpu_s, 2), "wall_s": round(way.wall_s, 2)} for name, way in ways.items()},
        of_torch=shares,
        result=f"CPU s until it computes: {shown}",
    )


def _imports(folder: str, *words: str) -> dict[str, int]:
    """Return the milliseconds that the modules of each package take to import, the slowest packages first."""
    command = [sys.executable, "-X", "importtime", *words]
    path = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=path, capture_output=True, text=True, check=True)
    packages = collections.Counter[str]()
    for microseconds, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\w+)", done.stderr, re.MULTILINE):
        packages[name] += int(microseconds)
    return {name: round(microseconds / 1000) for name, microseconds in packages.most_common(SLOWEST)}
