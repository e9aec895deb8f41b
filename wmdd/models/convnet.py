"""The ConvNet-D of the dataset-distillation literature, with batch-norm."""

from __future__ import annotations

from torch import Tensor, nn


class ConvNet(nn.Module):
    """D blocks of 3x3 convolution, norm, ReLU and 2x2 average pooling, then one linear layer.

    Args:
        num_classes: outputs.
        depth: blocks; the image is halved by each, down to at least 1 px.
        width: channels.
        image_size: height and width of the input, px.
    """

    def __init__(self, num_classes: int, *, depth: int = 3, width: int = 128, image_size: int = 32) -> None:
        super().__init__()
        if image_size >> depth < 1:
            raise ValueError(f"{depth} halvings of a {image_size} px image leave nothing")
        layers: list[nn.Module] = []
        channels = 3
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.AvgPool2d(2)]
            channels = width
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width * (image_size >> depth) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the (n, num_classes) logits of (n, 3, size, size) images."""
        logits: Tensor = self.head(self.blocks(images).flatten(1))
        return logits
