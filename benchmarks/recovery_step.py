"""What do bf16 and compilation bring in a recovery step? `python -m benchmarks.recovery_step [MODEL] [IMAGE_SIZE]`

Teachers are untrained: speed does not depend on weights. Ratios are against plain fp32 in the same process.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import torch

from benchmarks.common import report
from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.config.sections import RecoverConfig, RuntimeConfig
from wmdd.method.recovery import recover_images
from wmdd.runtime import Runtime

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
    teacher = untrained_teacher(model, size, CLASSES)
    targets = random_targets(teacher, IPC)
    section = RecoverConfig(iterations=STEPS)
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        list(recover_images(section, teacher, targets, runtime))
        best = min(best, time.perf_counter() - begun)
    return best


if __name__ == "__main__":
    main()
