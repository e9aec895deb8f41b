"""Ideas that change the images themselves: their start, their smoothness, how they are stored."""

from __future__ import annotations

from io import BytesIO

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as VF
from PIL import Image
from torch import Tensor

from benchmarks.trials.loop import Loop


class Residual(Loop):
    """The image is mixed back with its start by halves, three times."""

    def prepare(self) -> None:
        self.first = self.images.detach().clone()

    def after(self, step: int) -> None:
        if step + 1 in (self.steps // 4, self.steps // 2, 3 * self.steps // 4):
            self.images.lerp_(self.first, 0.5)


class Pyramid(Loop):
    """Images as a sum of scales, of 1/8, 1/4, 1/2 and the whole of their side."""

    def prepare(self) -> None:
        count, side = len(self.images), self.images.shape[-1]
        self.scales = [torch.zeros(count, 3, side // part, side // part, requires_grad=True) for part in (8, 4, 2)]

    def parameters(self) -> list[Tensor]:
        return [self.images, *self.scales]

    def current(self) -> Tensor:
        side = self.images.shape[-1]
        return self.images + torch.stack([F.interpolate(part, side, mode="bilinear") for part in self.scales]).sum(
            dim=0
        )

    def after(self, step: int) -> None:
        total = self.current()
        self.images += torch.clamp(total, *self.bounds) - total


class Blur(Loop):
    """The images are blurred every 25 steps (a Gaussian of 0.5 px) but the last 50."""

    every, last = 25, 50

    def after(self, step: int) -> None:
        if (step + 1) % self.every == 0 and step < self.steps - self.last:
            self.images.copy_(VF.gaussian_blur(self.images, [3, 3], [0.5, 0.5]))


class Noise(Loop):
    """Start from noise, normal pixels of the data's mean and deviation."""

    def start(self) -> list[Tensor]:
        shape, pixels = (self.count, 3, self.size, self.size), self.real.teacher.pixels
        rngs = [self.seeds.child("noise", number).torch() for number in range(self.classes)]
        return [pixels.denormalize(torch.randn(shape, generator=rng)) for rng in rngs]


class JpegLast(Loop):
    """The images pass JPEG of quality 75 at the end."""

    every = 0  # steps; 0: only at the end

    def after(self, step: int) -> None:
        if step + 1 == self.steps or (self.every and (step + 1) % self.every == 0):
            pixels = self.real.teacher.pixels
            self.images.copy_(pixels.normalize(torch.stack([through_jpeg(x) for x in pixels.denormalize(self.images)])))


class Jpeg(JpegLast):
    """The images pass JPEG of quality 75 every 25 steps, and at the end."""

    every = 25


class NoiseJpegLast(JpegLast, Noise):
    """Start from noise, and JPEG of quality 75 at the end."""


class NoiseJpeg(Jpeg, Noise):
    """Start from noise, and JPEG of quality 75 every 25 steps and at the end."""


def through_jpeg(image: Tensor) -> Tensor:
    """Return a (3, h, w) uint8 image as JPEG of quality 75 stores it."""
    file = BytesIO()
    VF.to_pil_image(image).save(file, format="JPEG", quality=75)
    return VF.pil_to_tensor(Image.open(file))
