"""Step: peak memory of a worker that runs a task of each stage, against a process that only imports torch.

Each stage of ``digits`` runs in a fresh process at its full size; more steps would take no more memory.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from typing import Any

from benchmarks.processes import python, small_run
from benchmarks.steps import Record, Setting

TORCH = "torch"  # in place of a stage
LIBRARIES = ("torchvision", "torch._dynamo", "ot", "sklearn", "scipy", "pandas", "matplotlib", "timm")


def run(setting: Setting, record: Record) -> None:
    """Measure one process for each stage."""
    from wmdd.stages import STAGES

    ways: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        url = small_run(folder)
        for name in (TORCH, *STAGES):
            ways[name] = json.loads(python(folder, "-m", "benchmarks.memory", name, url))
            more = {stage: round(way["peak_mib"] - ways[TORCH]["peak_mib"]) for stage, way in ways.items()}
            shown = ", ".join(f"{stage} {mib:+d}" for stage, mib in more.items() if stage != TORCH)
            alone = ways[TORCH]["peak_mib"]
            record(ways=ways, ratio={stage: round(1 + mib / alone, 2) for stage, mib in more.items()})
            record(result=f"peak MiB: torch alone {alone}, {shown}")


def _measure(name: str, url: str) -> dict[str, Any]:
    """Run the first task of a stage of a finished run in this process; return its peak memory and CPU time."""
    if name == TORCH:
        import torch  # noqa: F401
    else:
        _run_first_task(name, url)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    imported = [library for library in LIBRARIES if library in sys.modules]
    return {"peak_mib": usage.ru_maxrss // 1024, "cpu_s": round(time.process_time(), 2), "imports": imported}


def _run_first_task(name: str, url: str) -> None:
    from wmdd.data.index import DatasetIndex
    from wmdd.engine.plan import plan_from
    from wmdd.engine.run import run_stage
    from wmdd.engine.run_start import read_start
    from wmdd.runtime import Runtime
    from wmdd.storage.store import ArtifactStore

    start = read_start(url)
    store = ArtifactStore(start.store)
    plan = plan_from(start.config, store.load(start.index, DatasetIndex), start.index)
    task = plan.tasks[name][0]
    for unit in task.units:
        store.withdraw(unit.ref)
    for _ in run_stage(task, store, Runtime.create(start.config.runtime)):
        pass


if __name__ == "__main__":
    print(json.dumps(_measure(*sys.argv[1:])))
