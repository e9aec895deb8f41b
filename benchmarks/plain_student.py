"""A student as a script would train it: images from files, one by one, and a file of soft labels for each batch.

At each step it does what the released code of "Dataset Distillation via the Wasserstein Metric" does (train/): it loads
the file of the batch, decodes the batch's images with PIL, cuts, resizes and flips each by the stored numbers, pastes
the stored box, and takes a step of AdamW in fp32. Validation decodes every image each time, in batches of a quarter.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision.transforms.functional as VF
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, ToTensor

from wmdd.method.label_batches import LabelBatch
from wmdd.normalization import Normalization

TEMPERATURE = 20.0


class PlainStudent:
    """The files of a training, and the loop over them.

    Args:
        images: paths of the set's images, in its order.
        labels: folder of the files of labels, which are written now.
        validation: folder of folders of images.
    """

    def __init__(
        self,
        images: list[Path],
        batches: list[LabelBatch],
        labels: Path,
        validation: Path,
        pixels: Normalization,
        device: torch.device,
    ) -> None:
        self._images, self._device = images, device
        self._change = Compose([ToTensor(), Normalize(pixels.mean, pixels.std)])
        self._validation = ImageFolder(str(validation), self._change)
        self._files = [labels / f"batch-{number:05d}.pt" for number in range(len(batches))]
        for file, batch in zip(self._files, batches, strict=True):
            numbers = [batch.images, batch.views.box, batch.views.flip, batch.partner, list(batch.box), batch.logits]
            torch.save(numbers, file)

    def train(self, network: nn.Module) -> None:
        """Take a step for each file, and validate once."""
        torch.backends.cudnn.allow_tf32 = True  # as torch has it; wmdd sets its own before each of its rounds
        torch.backends.cudnn.deterministic = False
        network = network.to(self._device).train()
        matrices = [weight for weight in network.parameters() if weight.ndim > 1]
        others = [weight for weight in network.parameters() if weight.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=1e-3)
        size = 1
        for file in self._files:
            images, box, flip, partner, (top, left, bottom, right), logits = torch.load(file, weights_only=True)
            size = len(images)
            paths = [self._images[row] for row in images]
            views = next(iter(DataLoader(_Views(paths, box, flip, self._change), size))).to(self._device)
            mixed = views.clone()
            mixed[:, :, top:bottom, left:right] = views[partner.to(self._device), :, top:bottom, left:right]
            optimizer.zero_grad()
            student = F.log_softmax(network(mixed) / TEMPERATURE, dim=1)
            teacher = F.softmax(logits.to(self._device).float() / TEMPERATURE, dim=1)
            loss = F.kl_div(student, teacher, reduction="batchmean")
            loss.backward()
            optimizer.step()
            loss.item()
        self._validate(network.eval(), max(1, size // 4))

    @torch.no_grad()
    def _validate(self, network: nn.Module, batch_size: int) -> float:
        right = 0
        for images, labels in DataLoader(self._validation, batch_size):
            predicted = network(images.to(self._device)).argmax(dim=1)
            right += int((predicted == labels.to(self._device)).sum())
        return right / len(self._validation)


class _Views(Dataset[Tensor]):
    """The views of a batch, before its mixture."""

    def __init__(self, paths: list[Path], box: Tensor, flip: Tensor, change: Compose) -> None:
        self._paths, self._box, self._flip, self._change = paths, box.tolist(), flip.tolist(), change

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, place: int) -> Tensor:
        image = Image.open(self._paths[place]).convert("RGB")
        view = VF.resized_crop(image, *self._box[place], [image.height, image.width])
        changed: Tensor = self._change(VF.hflip(view) if self._flip[place] else view)
        return changed
