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

    def average_gradients(self, network: nn.Module) -> None:
        """Set the gradients to their mean over all processes.

        One sum of all gradients, after the backward pass. `DistributedDataParallel` overlaps the two, but groups the
        gradients anew after its first step, and sums of three or more processes depend on a gradient's place in its
        group: a resumed run would add up otherwise than an undisturbed one.
        """
        self._average([weight.grad for weight in network.parameters() if weight.grad is not None])

    def average_buffers(self, network: nn.Module) -> None:
        """Set batch-norm's running statistics to their mean over all processes, each of which saw other images."""
        self._average([buffer for buffer in network.buffers() if buffer.is_floating_point()])

    @torch.no_grad()
    def _average(self, tensors: list[Tensor]) -> None:
        if self.size == 1 or not tensors:
            return
        means = self.sum(torch.cat([tensor.flatten() for tensor in tensors])) / self.size
        for tensor, mean in zip(tensors, means.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


ALONE = Ranks()
