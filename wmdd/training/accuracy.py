"""What a network predicts, and how often it is right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from wmdd.distributed import ALONE, Ranks
from wmdd.runtime import Runtime

Batches = Iterable[tuple[Tensor, Tensor]]


VALIDATED_TOGETHER = 250  # images of a pass on a CPU; on a GPU at least


@torch.no_grad()
def images_per_pass(network: nn.Module, image_size: int, runtime: Runtime, least: int = VALIDATED_TOGETHER) -> int:
    """Return how many images one evaluation pass takes, by the output of all layers and the GPU's memory.

    Args:
        network: on the runtime's device; the modes of its layers are restored.
        image_size: height and width of the images, px.
        least: result on a CPU; on a GPU the result is a multiple of it, and at least this.
    """
    if not runtime.device_bytes:
        return least
    values = 3 * image_size**2

    def count(_layer: nn.Module, _inputs: object, output: object) -> None:
        nonlocal values
        values += output.numel() if isinstance(output, Tensor) else 0

    leaves = (module for module in network.modules() if not any(True for _ in module.children()))
    handles = [module.register_forward_hook(count) for module in leaves]
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with runtime.autocast():
            network(runtime.images(torch.zeros(1, 3, image_size, image_size)))
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return runtime.images_per_pass(values, least)


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
