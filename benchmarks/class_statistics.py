"""Step: features and batch-norm moments of real images, against a loop that reads them twice, with a hook a layer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Resize

from benchmarks.comparison import HALF, compare, plain_loader, plain_transform, sizes
from benchmarks.device import open_runtime
from benchmarks.steps import Record, Setting
from benchmarks.throughput import real_images
from benchmarks.untrained import untrained_teacher
from wmdd.config.base import Stem
from wmdd.config.recovery import StatisticsConfig
from wmdd.cpus import usable_cpus
from wmdd.data.batches import class_images
from wmdd.data.geometry import Geometry
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit

CLASSES, BATCH = 10, 100


def run(setting: Setting, record: Record, size: int, stem: Stem, each: int) -> None:
    """Measure one class of made-up image files with ResNet-18, from the files on."""
    model, size, each = ("convnet1_w8", 16, 8) if setting.toy else ("resnet18", size, each)
    runtime = open_runtime(setting)
    teacher, stage = untrained_teacher(model, size, CLASSES, stem), STAGES["statistics"]
    cores = usable_cpus() if runtime.device.type == "cpu" else 1  # on which images are decoded
    record(model=model, stem=stem, size_px=size, images=each, cores=cores)
    with tempfile.TemporaryDirectory() as folder:
        index = real_images(Path(folder), size, each)
        inputs: dict[str, Any] = {"teacher": teacher, "index": index}
        plain = _PlainLoop(Path(folder), untrained_teacher(model, size, CLASSES, stem).network, size, runtime)
        network = runtime.place(teacher.network)
        rows = np.arange(min(each, BATCH))
        ready = runtime.images(HALF.normalize(class_images(index, 1, Geometry(size, 1.0, "half"), rows)))

        def measure() -> int:
            unit = Unit("unit", stage.params(class_id=1), inputs.__getitem__)
            for _ in stage.run(StatisticsConfig(batch_size=BATCH), [unit], SeedTree(0), runtime):
                pass
            return each

        @torch.no_grad()
        def alone() -> int:
            for count in sizes(each, BATCH):
                with runtime.autocast():
                    network(ready[:count])
            return each

        compare(record, runtime, wmdd=measure, plain=plain.measure, network=alone, cores=cores)


class _PlainLoop:
    """What the released code does for a class: a pass for the features, and one for means of the batches' moments."""

    def __init__(self, folder: Path, network: nn.Module, size: int, runtime: Runtime) -> None:
        images = ImageFolder(str(folder / "train"), plain_transform(Resize(size), CenterCrop(size)))
        rows = [row for row, label in enumerate(images.targets) if label == 1]
        self._loader = plain_loader(Subset(images, rows), BATCH, runtime)
        self._network, self._runtime = network.to(runtime.device), runtime
        self._features: list[Tensor] = []
        self._moments: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def measure(self) -> int:
        """Measure the class; return its number of images."""
        self._features = []
        self._pass(nn.Linear, self._keep_features)
        return self._pass(nn.BatchNorm2d, self._keep_moments)

    def _pass(self, layer: type[nn.Module], hook: Any) -> int:
        layers = [module for module in self._network.modules() if isinstance(module, layer)]
        handles = [module.register_forward_hook(hook) for module in layers]
        count, sums = 0, []
        for images, _ in self._loader:
            self._moments = []
            self._network(images.to(self._runtime.device))
            sums.append([(mean * len(images), var * len(images)) for mean, var in self._moments])
            count += len(images)
        for handle in handles:
            handle.remove()
        of_layers = zip(*sums, strict=True)
        self._moments = [(sum(m for m, _ in parts) / count, sum(v for _, v in parts) / count) for parts in of_layers]
        return count

    def _keep_features(self, _layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        self._features.append(inputs[0].cpu())

    def _keep_moments(self, _layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        mean = inputs[0].mean(dim=(0, 2, 3))
        self._moments.append((mean, inputs[0].var(dim=(0, 2, 3), unbiased=False)))
