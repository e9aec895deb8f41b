"""Step: top-1 of a teacher after a few epochs, against a plain loop that trains the same network on the same images."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from benchmarks.recipes import config_of
from benchmarks.steps import Record, Setting
from wmdd.commands.distill import distill
from wmdd.config.distill import DistillConfig, override
from wmdd.config.teacher import PretrainConfig
from wmdd.data.images import load_uint8
from wmdd.data.index import DatasetIndex
from wmdd.data.scan import build_index
from wmdd.engine.run import LocalExecutor
from wmdd.models.registry import build_model
from wmdd.normalization import NORMALIZATIONS

PASS = 500  # validation images at a time


def run(setting: Setting, record: Record, recipe_name: str, epochs: int) -> None:
    """Train the teacher of a recipe for `epochs` epochs with wmdd, then in the plain loop."""
    config = config_of(setting, recipe_name)
    if not setting.toy:
        config = override(config, {"pretrain.epochs": epochs})
    begun, folder = time.perf_counter(), Path(setting.work) / "teacher-accuracy"
    executor = LocalExecutor(config.runtime)
    top1 = {"wmdd": distill(config, run=str(folder), executor=executor, until="pretrain").metrics["teacher"]["top1"]}
    seconds = {"wmdd": round(time.perf_counter() - begun, 1)}
    record(model=config.pretrain.model, epochs=config.pretrain.epochs, top1=top1, seconds_of=seconds)
    begun = time.perf_counter()
    top1["plain loop"] = plain(config, torch.device(setting.device))
    seconds["plain loop"] = round(time.perf_counter() - begun, 1)
    shown = ", ".join(f"{name} {100 * value:.1f} %" for name, value in top1.items())
    record(top1=top1, seconds_of=seconds, result=f"{config.pretrain.model}, {config.pretrain.epochs} epochs: {shown}")


def plain(config: DistillConfig, device: torch.device) -> float:
    """Return top-1 of the network after a loop as scripts for CIFAR have it: zeros around the images, crops, flips."""
    torch.manual_seed(0)
    section, index = config.pretrain, build_index(str(config.data.path))
    network = build_model(section.model, len(index.class_names), config.data.image_size, stem=section.stem)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    pixels = NORMALIZATIONS[config.data.normalization]
    (images, labels), (val_images, val_labels) = (_loaded(config, index, split, device) for split in ("train", "val"))
    options: dict[str, Any] = {"momentum": section.momentum, "nesterov": section.nesterov}
    optimizer = SGD(network.parameters(), lr=section.lr, weight_decay=section.weight_decay, **options)
    steps_per_epoch, step = math.ceil(len(images) / section.batch_size), 0
    for _ in range(section.epochs):
        for rows in torch.randperm(len(images), device=device).split(section.batch_size):
            optimizer.param_groups[0]["lr"] = _rate(section, step, steps_per_epoch)
            optimizer.zero_grad()
            view = _view(pixels.normalize(images[rows]), section)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits = network(view)
            F.cross_entropy(logits.float(), labels[rows]).backward()
            optimizer.step()
            step += 1
    network.eval()
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        parts = zip(val_images.split(PASS), val_labels.split(PASS), strict=True)
        correct = sum(int((network(pixels.normalize(x)).argmax(1) == y).sum()) for x, y in parts)
    return correct / len(val_images)


def _loaded(config: DistillConfig, index: DatasetIndex, split: str, device: torch.device) -> tuple[Tensor, Tensor]:
    part = index.train if split == "train" else index.val
    shape = {"size": config.data.image_size, "crop_ratio": config.data.crop_ratio}
    images = load_uint8(index, split, np.arange(len(part)), **shape)
    return images.to(device), torch.from_numpy(part.label.astype(np.int64)).to(device)


def _rate(section: PretrainConfig, step: int, steps_per_epoch: int) -> float:
    warmup = round(section.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return section.lr * (step + 1) / warmup
    done = (step - warmup) / (section.epochs * steps_per_epoch - warmup)
    return section.lr * (1 + math.cos(math.pi * done)) / 2


def _view(images: Tensor, section: PretrainConfig) -> Tensor:
    """Move each image by up to `pad_px` px in both directions, zeros coming in, and mirror half of them."""
    count, _, height, width = images.shape
    pad = section.pad_px
    padded = nn.functional.pad(images, (pad, pad, pad, pad))
    down, across = (torch.randint(0, 2 * pad + 1, (count, 1), device=images.device) for _ in range(2))
    rows = down + torch.arange(height, device=images.device)
    columns = across + torch.arange(width, device=images.device)
    if section.flip:
        mirrored = torch.rand(count, 1, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    places = torch.arange(count, device=images.device)[:, None, None]
    view = padded.permute(0, 2, 3, 1)[places, rows[:, :, None], columns[:, None, :]]
    return view.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
