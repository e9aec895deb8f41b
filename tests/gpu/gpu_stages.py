"""What the tests of the device share: the device, and each stage on small inputs."""

import functools
import os
import warnings

import pytest
import torch
from image_files import folder

from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.config.distill import DistillConfig, override
from wmdd.config.machines import RuntimeConfig
from wmdd.config.recovery import RecoverConfig
from wmdd.data.geometry import Geometry
from wmdd.data.scan import build_index
from wmdd.method.artifacts import DistilledClass
from wmdd.method.recovery import Paused, Recovered, recover_images
from wmdd.outputs import Output, Snapshot
from wmdd.runtime import Runtime
from wmdd.runtime.compilation import compiler_failure
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit

# Where there is no GPU, and in the toy run of the benchmark, the CPU stands in for it.
DEVICE = os.environ.get("WMDD_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE == "cuda"
# Network, image size and first layers: max-pooling is in the standard ones alone.
NETWORKS = {"convnet": ("convnet2_w16", 16, "auto"), "resnet": ("resnet18", 64, "standard")}
SLOWLY = ["convnet", pytest.param("resnet", marks=pytest.mark.slow)]
CLASSES, IPC = 4, 2
SECTION = RecoverConfig(lr=0.1, roll_px=4, bn_weight=1.0)


def open_runtime(device=None, precision="fp32", compile="off", memory_gib=2.0):
    """One thread on a CPU, as a worker has it."""
    if compile == "on" and not ON_GPU and (failure := compiler_failure(torch.device("cpu"))):
        pytest.skip(f"torch cannot compile for this CPU: {failure}")
    config = RuntimeConfig(
        device=device or DEVICE, precision=precision, compile=compile, train_threads=1, memory_gib=memory_gib
    )
    return Runtime.create(config)


@functools.cache
def classes_of(name):
    """A teacher with random weights, and a target for each of its classes."""
    model, size, stem = NETWORKS[name]
    return model, size, stem, random_targets(untrained_teacher(model, size, CLASSES, stem), IPC)


def recovered(name, runtime, **options):
    """The images and losses of some classes of a network after some steps; the teacher is a new one each time."""
    return next(event for event in recovery(name, runtime, **options) if isinstance(event, Recovered))


def recovery(name, runtime, *, places=range(CLASSES), until=None, steps=4, paused=None, feature_loss="rms"):
    """All that an optimisation yields, from its first step on or from where another was paused."""
    model, size, stem, targets = classes_of(name)
    teacher = untrained_teacher(model, size, CLASSES, stem)
    section = SECTION.model_copy(update={"iterations": steps, "feature_loss": feature_loss})
    runtime.enter()
    return list(recover_images(section, teacher, [targets[p] for p in places], runtime, steps=until, begun=paused))


def pauses(events):
    """Where an optimisation could go on, by the steps that are done."""
    return {event.step: event for event in events if isinstance(event, Paused)}


@functools.cache
def index_of(root, each=6):
    """A set of two classes of small images."""
    names = [f"{split}/{name}/{i}.png" for split, n in (("train", each), ("val", 4)) for name in "ab" for i in range(n)]
    return build_index(folder(root, *names))


CHANGES = {
    "pretrain.epochs": 3,
    "pretrain.batch_size": 4,
    "pretrain.pad_px": 1,
    "pretrain.lr": 0.01,
    "statistics.batch_size": 5,
    "recover.iterations": 3,
    "recover.roll_px": 2,
    "relabel.epochs": 3,
    "relabel.batch_size": 3,
    "evaluate.val_every": 1,
}


def teacher(name="convnet"):
    """For the set of two classes."""
    model, size, stem = NETWORKS[name]
    return untrained_teacher(model, size, 2, stem)


def geometry(name):
    """How images are shown to a network."""
    return Geometry(NETWORKS[name][1], 1.0, "half")


def images(name):
    """Two images for each of two classes."""
    made, size = [], NETWORKS[name][1]
    for class_id in range(2):
        noise = torch.rand(2, 3, size, size, generator=SeedTree(class_id).torch())
        made.append(DistilledClass(class_id, (255 * noise).to(torch.uint8), torch.full((2,), 0.5)))
    return made


def run(stage, runtime, params, changes=(), resume=None, **inputs):
    """All that a stage yields for one unit."""
    section = STAGES[stage].section_of(override(DistillConfig(), CHANGES | dict(changes)))
    unit = Unit("unit", STAGES[stage].params(**params), inputs.__getitem__, resume)
    return list(STAGES[stage].run(section, [unit], SeedTree(7), runtime))


def value(events):
    """The output among what a stage yields."""
    return next(event.value for event in events if isinstance(event, Output))


def snapshots(events):
    """The snapshots among them, oldest first."""
    return [event.data for event in events if isinstance(event, Snapshot)]


def pretrain(root, runtime, name="convnet", **options):
    """A teacher of the set of two classes."""
    model, _, stem = NETWORKS[name]
    params = {"model": model, "stem": stem, "weights": None, "geometry": geometry(name)}
    return run("pretrain", runtime, params, index=index_of(root, options.pop("each", 6)), **options)


def statistics(root, runtime, name="convnet"):
    """Of one class."""
    return run("statistics", runtime, {"class_id": 1}, index=index_of(root), teacher=teacher(name))


def relabel(runtime, name="convnet", epochs=3, **options):
    """Labels of the four images."""
    params = {"images": "distilled", "first_epoch": 0, "epochs": epochs}
    return run("relabel", runtime, params, teacher=teacher(name), classes=images(name), **options)


def evaluate(root, runtime, name="convnet", labels=None, **options):
    """A student that learns from labels made on the CPU."""
    params = {"student": NETWORKS[name][0], "seed": 0, "images": "distilled", "geometry": geometry(name)}
    params |= {"protocol": "wmdd", "protocol_hash": "none"}
    labels = labels or [value(relabel(open_runtime("cpu"), name))]
    return run("evaluate", runtime, params, index=index_of(root), classes=images(name), labels=labels, **options)


def waits(call):
    """How often the host waits for the device during a call, as torch counts it; 0 on a CPU."""
    if not ON_GPU:
        call()
        return 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
