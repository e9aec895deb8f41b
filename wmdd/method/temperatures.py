"""Temperatures of soft labels: a teacher's that falls while a student is trained, and a student's that is learned.

Source: [LPQLD] Xiao and He, "Soft Label Pruning and Quantization for Large-Scale Dataset Distillation", TPAMI 2026.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wmdd.config.students import EvaluateConfig


def teacher_temperature(section: EvaluateConfig, epoch: int) -> float:
    """Return the teacher's temperature in an epoch (0 is the first): T decay^floor(epoch / every), or its floor.

    [LPQLD] has T = 20, times 0.7 every 30 epochs, floor 2. Its code counts epochs from 1, so its steps come one epoch
    earlier.
    """
    start = section.temperature
    fallen = start * section.temperature_decay ** (epoch // section.temperature_every)
    return max(fallen, min(section.temperature_floor, start))


class StudentTemperature(nn.Module):
    """The student's temperature exp(s) T, where T is the teacher's and s is learned together with the network.

    s begins at 0, where both temperatures are equal, and has the gradient of the divergence. The logarithm keeps the
    temperature positive, and its steps are relative. The code of [LPQLD] searches instead: after each epoch it takes
    that of 0.01, 0.02, ..., 1 with the least divergence on the last batch, and it begins at 1.
    """

    def __init__(self) -> None:
        """Begin at the teacher's temperature."""
        super().__init__()
        self.log_ratio = nn.Parameter(torch.zeros(()))

    def forward(self, temperature: float) -> Tensor:
        """Return the student's temperature, a scalar, for the teacher's."""
        return self.log_ratio.exp() * temperature
