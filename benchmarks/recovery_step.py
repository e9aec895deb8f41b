"""What do bf16 and compilation bring in a recovery step? `python -m benchmarks.recovery_step [MODEL] [IMAGE_SIZE]`

Teachers are untrained: speed does not depend on weights. Ratios are against plain fp32 in the same process.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import torch

from benchmarks.common import report
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.moments import Moments
from wmdd.runtime import Runtime
from wmdd.sections import RecoverConfig, RuntimeConfig
from wmdd.seeding import SeedTree
from wmdd.synthesis import Target, recover_images
from wmdd.types import Barycenter, ClassStatistics, Teacher

CLASSES, IPC, STEPS = 10, 10, 12


def main() -> None:
    """Time STEPS steps of 100 images under each setting; the first call (which compiles) is not counted."""
    model = sys.argv[1] if len(sys.argv) > 1 else "convnet3"
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    base = Runtime.create(RuntimeConfig(threads=torch.get_num_threads()))
    settings = {
        "fp32": dataclasses.replace(base, bf16=False, compile=False),
        "bf16": dataclasses.replace(base, bf16=True, compile=False),
        "bf16 compiled": dataclasses.replace(base, bf16=True, compile=True),
    }
    seconds = {name: _time(model, size, runtime) for name, runtime in settings.items()}
    ratios = {name: round(seconds["fp32"] / value, 2) for name, value in seconds.items()}
    images_per_s = {name: round(CLASSES * IPC * STEPS / value, 1) for name, value in seconds.items()}
    report(f"recovery step, {model}, {size} px", speed_against_fp32=ratios, image_steps_per_s=images_per_s)


def _time(model: str, size: int, runtime: Runtime) -> float:
    runtime.enter()
    with SeedTree(0).scoped():
        network = build_model(model, CLASSES, size)
    names = tuple(str(i) for i in range(CLASSES))
    teacher = Teacher(model, "auto", dict(network.state_dict()), names, 0.1, size, 1.0, "half")
    with Probe(teacher.network, CLASSES) as probe, torch.no_grad():
        _, features, inputs = probe.run(torch.randn(8, 3, size, size))
    moments = tuple(Moments.of(layer) for layer in inputs)
    weights = torch.full((IPC,), 1 / IPC)
    support = torch.zeros(IPC, features.shape[1])
    targets = [
        Target(
            ClassStatistics(c, features, moments),
            Barycenter(c, support, weights, torch.arange(IPC), (1.0,), True, (0.0,) * 5),
            SeedTree(0).child(c),
            None,
        )
        for c in range(CLASSES)
    ]
    section = RecoverConfig(iterations=STEPS)
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        list(recover_images(section, teacher, targets, runtime))
        best = min(best, time.perf_counter() - begun)
    return best


if __name__ == "__main__":
    main()
