"""Step: soft labels of ten and of a thousand classes, stored and read back, against a file for each batch."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.steps import Record, Setting
from wmdd.config.students import RelabelConfig
from wmdd.method.label_batches import LabelBatch, draw_epoch
from wmdd.method.soft_labels import LabelBlock, SoftLabels
from wmdd.seeding import SeedTree

ROUNDS = 3
# Classes, images of the set, images per batch, epochs of the block, px.
SETS = {"CIFAR-10": (10, 100, 20, 50, 32), "ImageNet-1K": (1000, 1000, 50, 10, 224)}
TOY = {"toy": (10, 20, 10, 2, 16)}


def run(setting: Setting, record: Record) -> None:
    """Write a block of labels of each set, and read all of its epochs, in both ways in turn."""
    figures: dict[str, dict[str, Any]] = {}
    ratios: dict[str, float] = {}
    lines: list[str] = []
    for name, (classes, images, batch_size, epochs, size) in (TOY if setting.toy else SETS).items():
        batches = _batches(classes, images, batch_size, epochs, size)
        meta = {"first_epoch": 0, "epochs": epochs, "batches": len(batches) // epochs, "classes": classes}
        with tempfile.TemporaryDirectory() as folder:
            plain, stored = Path(folder), Path(folder) / "labels.parquet"
            _write_plainly(batches, plain)
            stored.write_bytes(LabelBlock.write(batches, meta).data)
            ways: dict[str, Callable[[], None]] = {
                "wmdd": partial(_read, stored),
                "plain loop": partial(_read_plainly, plain),
            }
            seconds = _least(ways)
            of_plain = sum(file.stat().st_size for file in plain.glob("*.pt"))
            sizes = {"wmdd": stored.stat().st_size, "plain loop": of_plain}
        labels = images * epochs
        figures[name] = {
            way: {
                "bytes_per_label": round(sizes[way] / labels, 1),
                "s_per_epoch": round(seconds[way] / epochs, 6),
                "labels_per_s": round(labels / seconds[way]),
            }
            for way in ways
        }
        ours, other = figures[name]["wmdd"], figures[name]["plain loop"]
        ratios[name] = round(seconds["plain loop"] / seconds["wmdd"], 2)
        lines.append(
            f"{name}: {ours['bytes_per_label']:g} bytes a label (a file for each batch: {other['bytes_per_label']:g}), "
            f"read {ratios[name]:g} times as fast"
        )
        record(ways=figures, ratio=ratios, result="\n".join(lines))


def _batches(classes: int, images: int, batch_size: int, epochs: int, size: int) -> list[LabelBatch]:
    """Draw label batches, with logits of a confident teacher, rounded as its pass in bf16 rounds them."""
    seeds, section = SeedTree(0), RelabelConfig(batch_size=batch_size)
    batches = [batch for epoch in range(epochs) for batch in draw_epoch(section, epoch, images, size, seeds)]
    generator = seeds.child("logits").torch()
    labelled = []
    for batch in batches:
        logits = 2 * torch.randn(len(batch.images), classes, generator=generator)
        logits[torch.arange(len(batch.images)), batch.images % classes] += 8
        labelled.append(dataclasses.replace(batch, logits=logits.bfloat16().half()))
    return labelled


def _read(file: Path) -> None:
    labels = SoftLabels([LabelBlock.from_bytes(file.read_bytes())])
    for epoch in range(labels.epochs):
        labels.epoch(epoch)


def _write_plainly(batches: list[LabelBatch], folder: Path) -> None:
    for number, batch in enumerate(batches):
        views = batch.views.box.float(), batch.views.flip, batch.partner
        torch.save([*views, 1.0, list(batch.box), batch.logits], folder / f"batch-{number:06d}.pt")


def _read_plainly(folder: Path) -> None:
    for file in sorted(folder.glob("*.pt")):
        torch.load(file, weights_only=True)


def _least(ways: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the least CPU seconds of each way, in rounds that alternate."""
    seconds = dict.fromkeys(ways, math.inf)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            seconds[name] = min(seconds[name], time.process_time() - begun)
    return seconds
