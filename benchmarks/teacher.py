"""Step: an epoch of a teacher with its validation, against torchvision's way of training on image files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.optim import SGD
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, RandomHorizontalFlip, RandomResizedCrop, Resize

from benchmarks.comparison import compare, plain_loader, plain_transform, sizes
from benchmarks.device import open_runtime
from benchmarks.steps import Record, Setting
from benchmarks.throughput import real_images
from benchmarks.untrained import untrained_teacher
from wmdd.config.base import Stem
from wmdd.config.teacher import PretrainConfig
from wmdd.data.geometry import Geometry
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.training.optim import teacher_optimizer

CLASSES, BATCH = 10, 100


def run(setting: Setting, record: Record, size: int, stem: Stem, each: int) -> None:
    """Train ResNet-18 for an epoch of made-up image files, `each` of ten classes, that are decoded already."""
    model, size, each = ("convnet1_w8", 16, 8) if setting.toy else ("resnet18", size, each)
    runtime, stage = open_runtime(setting, train_threads=1), STAGES["pretrain"]
    section = PretrainConfig(epochs=1, batch_size=BATCH)
    record(model=model, stem=stem, size_px=size, images=each * CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        inputs: dict[str, Any] = {"index": real_images(Path(folder), size, each)}
        plain = _PlainLoop(Path(folder), untrained_teacher(model, size, CLASSES, stem).network, size, runtime)

        def train() -> int:
            params = stage.params(model=model, stem=stem, weights=None, geometry=Geometry(size, 1.0, "half"))
            for _ in stage.run(section, [Unit("unit", params, inputs.__getitem__)], SeedTree(0), runtime):
                pass
            return each * CLASSES

        network = runtime.place(untrained_teacher(model, size, CLASSES, stem).network).requires_grad_(True)
        optimizer = teacher_optimizer(section, network)
        ready = runtime.images(torch.randn(BATCH, 3, size, size, generator=SeedTree(0).torch()))
        labels = runtime.send(torch.arange(BATCH) % CLASSES)

        def alone() -> int:
            network.train()
            for count in sizes(each * CLASSES, BATCH):
                optimizer.zero_grad()
                with runtime.autocast():
                    logits = network(ready[:count])
                F.cross_entropy(logits.float(), labels[:count]).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad(), runtime.autocast():
                for count in sizes(len(inputs["index"].val), BATCH):
                    network(ready[:count])
            return each * CLASSES

        compare(record, runtime, wmdd=train, plain=plain.train, network=alone)


class _PlainLoop:
    """Image files, torchvision's transforms, fp32, and a look at each step's loss and accuracy."""

    def __init__(self, folder: Path, network: torch.nn.Module, size: int, runtime: Runtime) -> None:
        change = plain_transform(RandomResizedCrop(size), RandomHorizontalFlip())
        train = ImageFolder(str(folder / "train"), change)
        val = ImageFolder(str(folder / "val"), plain_transform(Resize(size), CenterCrop(size)))
        self._train = plain_loader(train, BATCH, runtime, shuffle=True)
        self._val = plain_loader(val, BATCH, runtime)
        self._network, self._device = network.to(runtime.device).requires_grad_(True), runtime.device
        self._optimizer = SGD(self._network.parameters(), lr=0.025, momentum=0.9, weight_decay=1e-4)

    def train(self) -> int:
        """Train for an epoch and validate; return the number of training images."""
        self._network.train()
        count = 0
        for images, labels in self._train:
            images, labels = images.to(self._device), labels.to(self._device)
            logits = self._network(images)
            loss = F.cross_entropy(logits, labels)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            loss.item(), (logits.argmax(dim=1) == labels).float().mean().item()
            count += len(images)
        self._network.eval()
        with torch.inference_mode():
            for images, labels in self._val:
                logits = self._network(images.to(self._device))
                (logits.argmax(dim=1) == labels.to(self._device)).float().mean().item()
        return count
