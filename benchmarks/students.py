"""Step: a student's steps and its validation, against a plain loop over files and against the bare network."""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.device import open_runtime, synchronize
from benchmarks.plain_student import TEMPERATURE, PlainStudent
from benchmarks.steps import Record, Setting
from wmdd.config.base import Stem
from wmdd.config.distill import DistillConfig, override
from wmdd.config.students import EvaluateConfig, RelabelConfig
from wmdd.data.geometry import Geometry
from wmdd.data.scan import build_index
from wmdd.method.artifacts import DistilledClass
from wmdd.method.label_batches import LabelBatch, draw_epoch
from wmdd.method.losses import soft_label_loss
from wmdd.method.soft_labels import LabelBlock
from wmdd.models.registry import build_model
from wmdd.runtime import Runtime
from wmdd.runtime.compilation import ON, Compilation
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.plans.evaluate import Params
from wmdd.training.accuracy import images_per_pass
from wmdd.training.optim import student_optimizer

CLASSES, IPC, SIZE, ROUNDS = 10, 10, 32, 2
LONGER = 4  # times the epochs
VALIDATED_PER_STEP = 50  # 10,000 after 50 epochs of 5 steps, rounded up
WMDD, PLAIN, BARE = "wmdd", "plain loop", "bare network"
COMPILED, GRAPHS = "wmdd, compiled", "wmdd, CUDA graphs"


def run(setting: Setting, record: Record, model: str, batch_size: int, epochs: int, stem: Stem = "auto") -> None:
    """Train a student in each way in turn, the bare network on inputs that are ready."""
    with tempfile.TemporaryDirectory() as folder:
        model, epochs = ("convnet1_w8", 1) if setting.toy else (model, epochs)
        case = _Case(setting, model, batch_size, epochs, Path(folder), stem)
        ways = {WMDD: case.wmdd, BARE: case.bare, PLAIN: case.plain}
        if setting.on == "gpu":
            ways[COMPILED] = case.compiled
        case.wmdd()  # decodes the validation images, which stay for all students of a worker
        seconds = dict.fromkeys(ways, math.inf)
        for _ in range(ROUNDS):  # the first of which loads libraries
            for name, way in ways.items():
                seconds[name] = min(seconds[name], case.seconds(way))
            _record(record, case, seconds)
        if setting.on == "gpu":
            _compare_later(setting, record, case, seconds, Path(folder) / "longer")


def _compare_later(setting: Setting, record: Record, case: _Case, seconds: dict[str, float], folder: Path) -> None:
    """Write the time of the steps that a longer training adds, in which no start and no compilation is left."""
    longer = _Case(setting, case.model, case.batch_size, LONGER * case.epochs, folder, case.stem)
    ways = {WMDD: _Case.wmdd, COMPILED: _Case.compiled}
    if setting.device == "cuda":  # last, because capture may fail
        graphs = Compilation(0, 0, graphs=True, required=True)
        ways[GRAPHS] = functools.partial(_Case.compiled, compilation=graphs)
        seconds = seconds | {GRAPHS: min(case.seconds(functools.partial(ways[GRAPHS], case)) for _ in range(ROUNDS))}
    later = {}
    for name, way in ways.items():
        added_s = longer.seconds(functools.partial(way, longer)) - seconds[name]
        later[name] = round(1e3 * added_s / (longer.steps - case.steps), 3)
        record(ms_per_later_step=later)
    _record(record, case, seconds)


def _record(record: Record, case: _Case, seconds: dict[str, float]) -> None:
    ms = {name: round(1e3 * value / case.steps, 3) for name, value in seconds.items()}
    ratio, share = round(ms[PLAIN] / ms[WMDD], 2), round(ms[BARE] / ms[WMDD], 3)
    record(
        model=case.model,
        stem=case.stem,
        precision="bf16" if case.runtime.bf16 else "fp32",
        ways={name: {"ms_per_step": value} for name, value in ms.items()},
        ratio=ratio,
        share_of_network=share,
        result=f"{case.model}, with validation: {ms[WMDD]:.3g} ms a step, {ratio:g} times as fast as the plain loop; "
        f"{share:.0%} of it is the bare network",
    )


class _Case:
    """Images, labels and validation images of a student, in memory and in files."""

    def __init__(self, setting: Setting, model: str, batch_size: int, epochs: int, folder: Path, stem: Stem) -> None:
        self.runtime, self.model, self.stem = open_runtime(setting), model, stem
        self.epochs, self.batch_size = epochs, batch_size
        self._geometry, self._section = Geometry(SIZE, 1.0, "half"), EvaluateConfig()
        pixels = torch.randint(0, 256, (CLASSES * IPC, 3, SIZE, SIZE), generator=SeedTree(0).torch(), dtype=torch.uint8)
        masses = torch.full((IPC,), 1 / IPC)
        classes = [DistilledClass(number, part, masses) for number, part in enumerate(pixels.split(IPC))]
        batches = self._labelled(batch_size)
        self.steps = len(batches)
        self._validated = max(CLASSES, self.steps * VALIDATED_PER_STEP // CLASSES * CLASSES)
        meta = {"first_epoch": 0, "epochs": epochs, "batches": self.steps // epochs, "classes": CLASSES}
        paths = _write(folder / "images", pixels)
        for split, each in (("train", 1), ("val", self._validated // CLASSES)):
            for number, part in enumerate(classes):
                _write(folder / "real" / split / f"{number:02d}", part.images[torch.arange(each) % IPC])
        index = build_index(str(folder / "real"))
        self._inputs = {"classes": classes, "labels": [LabelBlock.write(batches, meta)], "index": index}
        (folder / "labels").mkdir()
        validation, normalization = folder / "real" / "val", self._geometry.pixels
        files = (paths, batches, folder / "labels", validation, normalization, self.runtime.device)
        self._plain = PlainStudent(*files)

    def _labelled(self, batch_size: int) -> list[LabelBatch]:
        section, seeds = RelabelConfig(batch_size=batch_size), SeedTree(0)
        drawn = [batch for e in range(self.epochs) for batch in draw_epoch(section, e, CLASSES * IPC, SIZE, seeds)]
        generator = seeds.child("logits").torch()
        rows = [torch.randn(len(batch.images), CLASSES, generator=generator).half() for batch in drawn]
        return [dataclasses.replace(batch, logits=logits) for batch, logits in zip(drawn, rows, strict=True)]

    def seconds(self, way: Callable[[], None]) -> float:
        """Return the CPU seconds of a way, or on a GPU the seconds."""
        clock = time.process_time if self.runtime.device.type == "cpu" else time.perf_counter
        synchronize()
        begun = clock()
        way()
        synchronize()
        return clock() - begun

    def compiled(self, compilation: Compilation = ON) -> None:
        """Run stage evaluate with a compiled network; its first time is most of all compilation."""
        self.wmdd(dataclasses.replace(self.runtime, compilation=compilation))

    def wmdd(self, runtime: Runtime | None = None) -> None:
        """Run stage evaluate."""
        section = override(DistillConfig(), {"evaluate.val_every": self.epochs, "evaluate.stem": self.stem}).evaluate
        params = Params(self.model, 0, "distilled", self._geometry, "wmdd", "none")
        for _ in STAGES["evaluate"].run(
            section, [Unit("unit", params, self._inputs.__getitem__)], SeedTree(0), runtime or self.runtime
        ):
            pass

    def bare(self) -> None:
        """Take as many steps, and predict as many images, on inputs that are ready on the device."""
        network = self.runtime.place(self._network())
        optimizer = student_optimizer(self._section, network.train())
        images, logits, weights = self._ready(self.batch_size)
        for _ in range(self.steps):
            optimizer.zero_grad()
            with self.runtime.autocast():
                predicted = network(images)
            soft_label_loss(predicted, logits, weights, TEMPERATURE).backward()
            optimizer.step()
        network.eval()
        images, *_ = self._ready(images_per_pass(network, SIZE, self.runtime))
        with torch.no_grad(), self.runtime.autocast():
            for start in range(0, self._validated, len(images)):
                network(images[: self._validated - start]).argmax(dim=1)

    def plain(self) -> None:
        """Run the plain loop."""
        self._plain.train(self._network())

    def _network(self) -> nn.Module:
        with SeedTree(0).scoped():
            return build_model(self.model, CLASSES, SIZE, stem=self.stem)

    def _ready(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        images = self.runtime.images(torch.zeros(count, 3, SIZE, SIZE))
        return images, self.runtime.send(torch.zeros(count, CLASSES)), self.runtime.send(torch.ones(count))


def _write(folder: Path, pixels: Tensor) -> list[Path]:
    """Write (n, 3, h, w) uint8 images as PNG."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}.png" for number in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(path)
    return paths
