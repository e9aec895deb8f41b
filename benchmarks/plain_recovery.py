"""Recovery as a script would write it: fp32, and nothing that is not needed for one batch of classes.

At each step it does what the released code of "Dataset Distillation via the Wasserstein Metric" does
(recover/data_synthesis_new.py, with the options -w and -n): one random view
for the whole batch by torchvision, forward hooks that reduce each batch-norm layer's input class by class (a mean, and
a variance that takes the mean again), one norm of the features over the batch, a cross-entropy, Adam, the clamp of each
channel, and a look at the loss, which makes the host wait for the device.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as VF
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop

from benchmarks.device import synchronize
from wmdd.method.recovery import Target
from wmdd.models.teacher import Teacher
from wmdd.seeding import SeedTree


class PlainLoop:
    """Images of all targets, to be optimised step by step, with a teacher that gets the loop's hooks.

    Args:
        tf32: let matrix products and convolutions round to TF32.
    """

    def __init__(self, teacher: Teacher, targets: list[Target], device: torch.device, *, tf32: bool) -> None:
        self._network, self._tf32 = teacher.network.to(device), tf32
        modules = list(self._network.modules())
        for norm in (module for module in modules if isinstance(module, nn.BatchNorm2d)):
            norm.register_forward_hook(self._look)
        head = [module for module in modules if isinstance(module, nn.Linear)][-1]
        head.register_forward_pre_hook(self._keep)
        self._classes, self._ipc = len(targets), len(targets[0].barycenter.support)
        self._labels = torch.arange(self._classes, device=device).repeat_interleave(self._ipc)
        self._support = torch.cat([target.barycenter.support for target in targets]).to(device)
        layers = list(zip(*(target.statistics.moments for target in targets), strict=True))
        self._means = [torch.stack([item.mean for item in layer]).float().to(device) for layer in layers]
        self._vars = [torch.stack([item.var for item in layer]).float().to(device) for layer in layers]
        shape = (self._classes * self._ipc, 3, teacher.image_size, teacher.image_size)
        self._images = torch.randn(shape, generator=SeedTree(0).child("images").torch()).to(device).requires_grad_(True)
        self._optimizer = torch.optim.Adam([self._images], lr=0.25, betas=(0.5, 0.9))
        low, high = (bound.flatten().tolist() for bound in teacher.pixels.bounds(self._images))
        self._bounds = list(zip(low, high, strict=True))
        self._distances: list[Tensor] = []
        self._features = torch.zeros(0)

    def seconds_per_step(self, steps: int) -> float:
        """Run `steps` steps; return the mean seconds of one."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self._tf32
        torch.backends.cudnn.deterministic = False  # as torch has it; wmdd sets its own before each of its rounds
        synchronize()
        begun = time.perf_counter()
        for _ in range(steps):
            self._step()
        synchronize()
        return (time.perf_counter() - begun) / steps

    def _keep(self, _head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0].flatten(1)

    def _look(self, _layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        place = len(self._distances)
        by_class = inputs[0].unflatten(0, (self._classes, self._ipc))
        mean, var = by_class.mean(dim=(1, 3, 4)), by_class.var(dim=(1, 3, 4), unbiased=False)
        off, spread = (mean - self._means[place]).norm(dim=1), (var - self._vars[place]).norm(dim=1)
        self._distances.append((off + spread).mean())

    def _step(self) -> None:
        size = self._images.shape[-1]
        box = RandomResizedCrop.get_params(self._images, [0.08, 1.0], [3 / 4, 4 / 3])
        views = VF.resized_crop(self._images, *box, [size, size], antialias=False)
        views = VF.horizontal_flip(views) if torch.rand(()) < 0.5 else views
        down, right = torch.randint(0, min(33, size), (2,)).tolist()
        views = torch.roll(views, (down, right), dims=(2, 3))
        self._distances = []
        self._optimizer.zero_grad()
        logits = self._network(views)
        loss = F.cross_entropy(logits, self._labels) + (self._features - self._support).norm()
        loss = loss + 10.0 * sum(self._distances)
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            for channel, (low, high) in enumerate(self._bounds):
                self._images[:, channel].clamp_(low, high)
        loss.item()
