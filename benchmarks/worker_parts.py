"""Where a worker's start goes: the CPU time of its imports by part, and its start on a temporary Ray."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import tempfile
import time
from typing import Any

from wmdd.process.loading import collector_paused

# In the order in which a worker imports them; each part takes what the parts before have not imported.
PARTS: dict[str, tuple[str, ...]] = {
    "Ray": ("ray",),
    "modules": ("ray_jobs.actors",),
    "torch": ("torch",),
    "first task": ("wmdd.stages.pretrain", "wmdd.stages.statistics", "wmdd.stages.recover"),
    "SciPy": ("scipy.optimize",),
    "scikit-learn": ("sklearn.cluster",),
    "POT": ("ot",),
}


def imports() -> dict[str, float]:
    """Return the CPU seconds that each part takes to import in this process."""
    seconds = {}
    for part, modules in PARTS.items():
        # As a worker does; Ray imports the first two for it.
        with contextlib.nullcontext() if part in ("Ray", "modules") else collector_paused():
            begun = time.process_time()
            for module in modules:
                importlib.import_module(module)
            seconds[part] = round(time.process_time() - begun, 3)
    return seconds


def on_ray() -> dict[str, float]:
    """Start a temporary Ray and two actors on it; return the seconds of the clock and of CPU until each is ready.

    The first actor does nothing: it has what Ray itself takes. The second one is a worker of wmdd.
    """
    from ray_jobs.actors import StageActor
    from ray_jobs.connect import connect
    from wmdd.config.machines import RuntimeConfig
    from wmdd.storage.store import ArtifactStore

    class Bare:
        def hello(self) -> None:
            """Do nothing."""

        def cpu_s(self) -> float:
            """Return the CPU seconds of the actor's process since it began."""
            return time.process_time()

    class Worker(StageActor):
        cpu_s = Bare.cpu_s

    figures = {}
    begun = time.monotonic()
    connect(None)
    figures["connected_s"] = time.monotonic() - begun
    import ray  # not before `connect`, which sets what Ray reads when it is imported

    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(folder)
        store.write_note("probe", b"")
        arguments: tuple[Any, ...] = (store.url, RuntimeConfig(device="cpu").model_dump(mode="json"), False, "probe", 1)
        for name, actor, values in (("bare", Bare, ()), ("worker", Worker, arguments)):
            begun = time.monotonic()
            handle = ray.remote(actor).remote(*values)
            ray.get(handle.hello.remote())
            figures[f"{name}_ready_s"] = time.monotonic() - begun
            figures[f"{name}_cpu_s"] = ray.get(handle.cpu_s.remote())
            ray.kill(handle)
    ray.shutdown()
    return {name: round(seconds, 2) for name, seconds in figures.items()}


if __name__ == "__main__":
    print(json.dumps({"imports": imports, "on-ray": on_ray}[sys.argv[1]]()))
