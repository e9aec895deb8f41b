"""The processes that train one network together; a single process never uses torch.distributed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, in [0, size), among those that train together.

    `sum`, `from_first` and the averages must be called by all of them, in the same order.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def here() -> Ranks:
        """Return the rank in torch's process group, or `ALONE` if this process is in none."""
        if dist.is_available() and dist.is_initialized():
            return Ranks(dist.get_rank(), dist.get_world_size())
        return Ranks()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that yields outputs, snapshots and notes."""
        return self.rank == 0

    def part(self, whole: range) -> slice:
        """Return this process's part of a global batch; the sizes of parts differ by at most one."""
        return slice(whole.start + self.rank, whole.stop, self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def from_first(self, data: bytes | None, device: torch.device) -> bytes | None:
        """Return the first process's bytes in every process: what each would read itself might differ."""
        if self.size == 1:
            return data
        length = torch.tensor(-1 if data is None else len(data), device=device)
        dist.broadcast(length, src=0)
        if int(length) < 0:
            return None
        content = torch.empty(int(length), dtype=torch.uint8, device=device)
        if self.is_first and data:
            content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(content, src=0)
        return content.cpu().numpy().tobytes()

    def average_gradients(self, network: nn.Module) -> None:
        """Set the gradients to their mean over all processes.

        All gradients are summed at once, after the backward pass. `DistributedDataParallel` overlaps the two, but
        regroups the gradients after its first step, and with three or more processes the rounding of a sum depends on
        the position in its group: a resumed run would differ from an uninterrupted one.
        """
        self._average(weight.grad for weight in network.parameters() if weight.grad is not None)

    def average_buffers(self, network: nn.Module) -> None:
        """Set batch-norm's running statistics to their mean over all processes, which saw different images."""
        self._average(buffer for buffer in network.buffers() if buffer.is_floating_point())

    @torch.no_grad()
    def _average(self, values: Iterable[Tensor]) -> None:
        if self.size == 1 or not (tensors := list(values)):
            return
        means = self.sum(torch.cat([tensor.flatten() for tensor in tensors])) / self.size
        for tensor, mean in zip(tensors, means.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


ALONE = Ranks()
