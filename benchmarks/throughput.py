"""Step: images per second of every stage with a network but recovery, and the share of time in which the device works.

The real images are made up: smooth files of the wanted size, in folders, decoded as a user's are, but faster than
photographs.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.device import Trace, open_runtime
from benchmarks.steps import Record, Setting
from benchmarks.untrained import untrained_teacher
from wmdd.config.distill import DistillConfig, override
from wmdd.data.geometry import Geometry
from wmdd.data.index import DatasetIndex
from wmdd.data.scan import build_index
from wmdd.method.artifacts import DistilledClass
from wmdd.outputs import Output
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit

CLASSES, IPC = 10, 10


def run(setting: Setting, record: Record, size: int) -> None:
    """Time each stage without a profile and then, shorter, with one, after a first run that chooses kernels."""
    size, each = (16, 4) if setting.toy else (size, 40 if size > 100 else 500)
    epochs = 4 if setting.toy else 60 if size > 100 else 240
    with tempfile.TemporaryDirectory() as folder:
        work = _Work("convnet1_w8" if setting.toy else "resnet18", size, Path(folder), each, setting)
        figures: dict[str, dict[str, Any]] = {}
        for stage in (work.statistics, work.labels, work.student, work.teacher):
            short = max(1, epochs // 12)
            stage(short)
            begun = time.perf_counter()
            images = stage(epochs)
            seconds = time.perf_counter() - begun
            with Trace(work.runtime) as trace:
                stage(short)
            figures[stage.__name__] = {"images_per_s": round(images / seconds, 1), "busy_share": trace.busy_share()}
            shown = ", ".join(f"{name} {_rate(**figure)}" for name, figure in figures.items())
            record(stages=figures, result=f"images per second: {shown}")


def _rate(images_per_s: float, busy_share: float | None) -> str:
    return f"{images_per_s:g}" + ("" if busy_share is None else f" (device busy {busy_share:.0%})")


def real_images(folder: Path, size: int, each: int) -> DatasetIndex:
    """Write smooth random images, as JPEG of about the size that photographs have, or PNG where they are small."""
    rng = SeedTree(0).child("real").numpy()
    side = size if size < 100 else size * 8 // 7
    for split, count in (("train", each), ("val", max(1, each // 4))):
        for class_id in range(CLASSES):
            target = folder / split / f"{class_id:02d}"
            target.mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                suffix = "png" if size < 100 else "jpg"
                coarse.resize((side, side), Image.Resampling.BICUBIC).save(target / f"{number:04d}.{suffix}")
    return build_index(str(folder))


class _Work:
    """The stages on one network and one image size; each takes a number of epochs and returns the images that it saw.

    Real images are seen once, whatever the number: statistics and a teacher's epoch are long enough.
    """

    def __init__(self, model: str, size: int, folder: Path, each: int, setting: Setting) -> None:
        self._model, self._index = model, real_images(folder, size, each)
        self.runtime = open_runtime(setting)
        self._teacher = untrained_teacher(model, size, CLASSES)
        self._geometry = Geometry(size, 1.0, "half")
        pixels = torch.randint(0, 256, (IPC, 3, size, size), dtype=torch.uint8)
        masses = torch.full((IPC,), 1 / IPC)
        self._images = [DistilledClass(class_id, pixels, masses) for class_id in range(CLASSES)]
        self._labelled: dict[int, list[Any]] = {}

    def statistics(self, _epochs: int) -> int:
        """Measure every class, image files and all."""
        for class_id in range(CLASSES):
            self._run("statistics", {"class_id": class_id}, {"teacher": self._teacher, "index": self._index}, {})
        return len(self._index.train)

    def labels(self, epochs: int) -> int:
        """Label epochs of the distilled images."""
        params = {"images": "distilled", "first_epoch": 0, "epochs": epochs}
        loaded = {"teacher": self._teacher, "classes": self._images}
        changes = {"relabel.epochs": epochs, "relabel.batch_size": 50}
        self._labelled[epochs] = self._run("relabel", params, loaded, changes)
        return epochs * CLASSES * IPC

    def student(self, epochs: int) -> int:
        """Train a student on as many epochs of labels, and validate it once at the end."""
        params = {"student": self._model, "seed": 0, "images": "distilled", "geometry": self._geometry}
        params |= {"protocol": "wmdd", "protocol_hash": "none"}
        loaded = {"classes": self._images, "labels": self._labelled[epochs], "index": self._index}
        self._run("evaluate", params, loaded, {"evaluate.val_every": epochs})
        return epochs * CLASSES * IPC

    def teacher(self, _epochs: int) -> int:
        """Train a teacher for one epoch, and validate it."""
        params = {"model": self._model, "stem": "auto", "weights": None, "geometry": self._geometry}
        changes = {"pretrain.epochs": 1, "pretrain.batch_size": 100, "pretrain.pad_px": 4}
        self._run("pretrain", params, {"index": self._index}, changes)
        return len(self._index.train)

    def _run(self, name: str, params: dict[str, Any], loaded: dict[str, Any], changes: dict[str, Any]) -> list[Any]:
        stage = STAGES[name]
        section = stage.section_of(override(DistillConfig(), changes))
        unit = Unit("unit", stage.params(**params), loaded.__getitem__)
        events = stage.run(section, [unit], SeedTree(0), self.runtime)
        return [event.value for event in events if isinstance(event, Output)]
