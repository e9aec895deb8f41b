"""What a network predicts, and how often it is right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from wmdd.distributed import ALONE, Ranks
from wmdd.runtime import Runtime

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def predictions(network: nn.Module, batches: Batches, runtime: Runtime) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the predicted and the true class ids of each (images, labels) batch, (n,) int64 on the device."""
    network.eval()
    for images, labels in batches:
        with runtime.autocast():
            logits = network(images)
        yield logits.argmax(dim=1), labels


def top1_accuracy(network: nn.Module, batches: Batches, runtime: Runtime, ranks: Ranks = ALONE) -> float:
    """Return the fraction of images, over all processes, whose class a network predicts."""
    correct, count = torch.zeros((), dtype=torch.int64, device=runtime.device), 0
    for predicted, labels in predictions(network, batches, runtime):
        correct += (predicted == labels).sum()
        count += len(labels)
    total_correct, total = ranks.sum(torch.stack([correct, torch.full_like(correct, count)])).tolist()
    return int(total_correct) / int(total)
