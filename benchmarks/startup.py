"""Step: how long commands and workers take before they compute, and which imports take it.

The plain start is that of a script that only imports torch. A worker's start is measured on Ray, and by its parts
(`benchmarks.worker_parts`).
"""

from __future__ import annotations

import collections
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from benchmarks.processes import FEW_STEPS, ROOT, Cost, cost, python, small_run
from benchmarks.steps import Record, Setting

TORCH = ("-c", "import torch")
IMPORTS, ON_RAY = (("-m", "benchmarks.worker_parts", what) for what in ("imports", "on-ray"))
METHOD = ("--method", "random", "--evaluate.baselines", "none")  # whose first run takes least
ROUNDS = 2
SLOWEST = 6  # packages to name


def run(setting: Setting, record: Record) -> None:
    """Time each way in turn, several times, and then list what a plan and a worker import."""
    with tempfile.TemporaryDirectory() as folder:
        small_run(folder, *METHOD)
        ways: dict[str, Cost] = {}
        rounds = 1 if setting.toy else ROUNDS
        for number in range(rounds):
            for name, words in _commands(number).items():
                measured = cost(folder, *words)
                ways[name] = measured.least(ways.get(name, measured))
            _record(record, ways)
        to_list = {"plan": _commands(0)["plan"]}
        if "second run" in ways:
            on_ray: dict[str, float] = json.loads(python(folder, *ON_RAY))
            ways["worker"] = Cost(on_ray["worker_cpu_s"], on_ray["worker_ready_s"])
            runs = [json.loads(python(folder, *IMPORTS)) for _ in range(rounds)]
            parts = {part: min(run[part] for run in runs) for part in runs[0]}
            record(worker_parts_s=parts, worker_on_ray=on_ray)
            _record(record, ways, _shown(parts, on_ray))
            to_list["worker"] = IMPORTS
        record(imports_ms={name: _imports(folder, *words) for name, words in to_list.items()})


def _commands(number: int) -> dict[str, tuple[str, ...]]:
    """Return Python's words for each way; a plan has another store in each round, which it indexes the set for."""
    commands = {
        "torch": TORCH,
        "help": ("-m", "wmdd", "--help"),
        "plan": ("-m", "wmdd", "plan", "digits", "--store", f"store-{number}"),
        "second run": ("-m", "wmdd", "distill", "digits", *FEW_STEPS, *METHOD, "--executor", "ray", "--run", "run"),
    }
    if importlib.util.find_spec("ray") is None:
        del commands["second run"]
    return commands


def _record(record: Record, ways: Mapping[str, Cost], more: str = "") -> None:
    shares = {name: round(way.cpu_s / ways["torch"].cpu_s, 2) for name, way in ways.items()}
    shown = ", ".join(f"{name} {way.cpu_s:.2f}" for name, way in ways.items())
    record(
        ways={name: {"cpu_s": round(way.cpu_s, 2), "wall_s": round(way.wall_s, 2)} for name, way in ways.items()},
        of_torch=shares,
        result=f"CPU s until it computes: {shown}{more}",
    )


def _shown(parts: Mapping[str, float], on_ray: Mapping[str, float]) -> str:
    imports = ", ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items())
    return (
        f"\nCPU s of a worker's imports: {imports}; an actor of Ray alone {on_ray['bare_cpu_s']:.2f}"
        f"\nelapsed s: a temporary Ray {on_ray['connected_s']:.1f}, then a worker {on_ray['worker_ready_s']:.1f}"
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
