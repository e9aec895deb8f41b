"""The processes that train one network together; a process alone never touches torch.distributed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """A process's place among those that train together.

    Every collective call must be made by all of them, in the same order.

    Args:
        rank: of this process, in [0, size).
        size: processes in all.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def here() -> Ranks:
        """Give the place in torch's process group, if this process is in one."""
        if dist.is_available() and dist.is_initialized():
            return Ranks(dist.get_rank(), dist.get_world_size())
        return Ranks()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that saves and tells."""
        return self.rank == 0

    def part(self, whole: range) -> slice:
        """Give this process's places of a global batch; parts differ by one place at most."""
        return slice(whole.start + self.rank, whole.stop, self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Add a tensor up over all processes."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def from_first(self, data: bytes | None, device: torch.device) -> bytes | None:
        """Give every process the first one's bytes: what each would read for itself might differ."""
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

    def wrap(self, network: nn.Module) -> nn.Module:
        """Give the network to train with, whose backward pass averages gradients over all processes."""
        if self.size == 1:
            return network
        # Looking for unused parameters keeps the gradients in the same buckets from the first step on. Sums over three
        # or more processes depend on a gradient's place in its bucket, and a resumed run must add up as before.
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=True)

    @torch.no_grad()
    def average_buffers(self, network: nn.Module) -> None:
        """Set batch-norm's running statistics to their mean over all processes, each of which saw other images."""
        if self.size == 1:
            return
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        if not buffers:
            return
        means = self.sum(torch.cat([buffer.flatten() for buffer in buffers])) / self.size
        for buffer, mean in zip(buffers, means.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))


ALONE = Ranks()
