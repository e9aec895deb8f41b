"""Step: labels of the teacher, against a loop over image files that writes one file for each batch."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import RandomResizedCrop

from benchmarks.comparison import HALF, compare, plain_loader
from benchmarks.device import open_runtime
from benchmarks.steps import Record, Setting
from benchmarks.untrained import untrained_teacher
from wmdd.config.base import Stem
from wmdd.config.students import RelabelConfig
from wmdd.data.decoding.pixels import to_image
from wmdd.method.artifacts import DistilledClass
from wmdd.models.folding import folded
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit

CLASSES, IPC = 10, 10


def run(setting: Setting, record: Record, size: int, stem: Stem, epochs: int) -> None:
    """Label a block of epochs of 100 images of `size` px by ResNet-18, in batches of 100.

    A block begins by folding the network, and so has as many epochs as users' blocks; the loops need fewer.
    """
    model, size, epochs = ("convnet1_w8", 16, 1) if setting.toy else ("resnet18", size, epochs)
    fewer = -(-epochs // 5)
    runtime = open_runtime(setting)
    teacher = untrained_teacher(model, size, CLASSES, stem)
    record(model=model, stem=stem, size_px=size, epochs=epochs)
    noise = torch.randint(0, 256, (CLASSES * IPC, 3, size, size), generator=SeedTree(0).torch(), dtype=torch.uint8)
    masses = torch.full((IPC,), 1 / IPC)
    classes = [DistilledClass(number, images, masses) for number, images in enumerate(noise.split(IPC))]
    section, stage = RelabelConfig(epochs=epochs, batch_size=CLASSES * IPC), STAGES["relabel"]
    inputs: dict[str, Any] = {"teacher": teacher, "classes": classes}
    ready = runtime.images(HALF.normalize(noise))
    network = runtime.round_weights(folded(runtime.place(teacher.network), size))

    def label() -> int:
        params = stage.params(images="distilled", first_epoch=0, epochs=epochs)
        for _ in stage.run(section, [Unit("unit", params, inputs.__getitem__)], SeedTree(0), runtime):
            pass
        return epochs * len(noise)

    @torch.no_grad()
    def alone() -> int:
        for _ in range(fewer):
            with runtime.autocast():
                network(ready)
        return fewer * len(noise)

    with tempfile.TemporaryDirectory() as folder:
        plain = _PlainLoop(Path(folder), noise, untrained_teacher(model, size, CLASSES, stem).network, runtime)
        compare(record, runtime, wmdd=label, plain=lambda: plain.label(fewer), network=alone)


@dataclasses.dataclass
class _Files(Dataset[tuple[torch.Tensor, torch.Tensor, bool]]):
    """Image files, each shown through a random crop and flip, whose numbers are kept for the labels' file."""

    files: list[Path]
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor, bool]:
        image = Image.open(self.files[number]).convert("RGB")
        box = RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])  # type: ignore[arg-type]
        view = TF.resized_crop(image, *box, [self.size, self.size])  # type: ignore[arg-type]
        flip = bool(torch.rand(()) < 0.5)
        view = TF.hflip(view) if flip else view
        pixels = TF.normalize(TF.to_tensor(view), list(HALF.mean), list(HALF.std))
        return pixels, torch.tensor(box), flip


class _PlainLoop:
    """What released code for fast knowledge distillation does: fp32, CutMix, and a file of logits for each batch."""

    def __init__(self, folder: Path, images: torch.Tensor, network: torch.nn.Module, runtime: Runtime) -> None:
        self._folder, self._network, self._runtime = folder, network.to(runtime.device), runtime
        files = [folder / f"{number:04d}.png" for number in range(len(images))]
        for file, pixels in zip(files, images, strict=True):
            to_image(pixels).save(file)
        self._loader = plain_loader(_Files(files, images.shape[-1]), len(images), runtime, shuffle=True)
        self._rng = SeedTree(0).numpy()

    @torch.no_grad()
    def label(self, epochs: int) -> int:
        """Label the images `epochs` times; return the number of labels."""
        count = 0
        for epoch in range(epochs):
            for number, (pixels, boxes, flips) in enumerate(self._loader):
                mixed = pixels.to(self._runtime.device)
                partner, (top, left, bottom, right) = torch.randperm(len(mixed)), self._box(mixed.shape[-1])
                mixed[:, :, top:bottom, left:right] = mixed[partner][:, :, top:bottom, left:right]
                logits = self._network(mixed).half().cpu()
                label = [boxes, flips, partner, (top, left, bottom, right), logits]
                torch.save(label, self._folder / f"epoch-{epoch}-batch-{number}.tar")
                count += len(mixed)
        return count

    def _box(self, size: int) -> tuple[int, ...]:
        half = int(size * np.sqrt(1 - self._rng.beta(1, 1))) // 2
        y, x = self._rng.integers(0, size, 2)
        return tuple(int(edge) for edge in np.clip([y - half, x - half, y + half, x + half], 0, size))
