"""The only source of randomness: seeds hashed from names, never from ranks or the order of work."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SeedTree:
    """A node in a tree of named seeds: the run's seed, any integer, and the names from the root to this node."""

    root: int
    path: tuple[str, ...] = ()

    def child(self, *names: str | int) -> SeedTree:
        """Return the node below this one; equal names give equal seeds on every machine."""
        return SeedTree(self.root, self.path + tuple(str(name) for name in names))

    def seed(self) -> int:
        """Return this node's seed, in [0, 2**63)."""
        # No name contains the separator, so ("a", "bc") and ("ab", "c") differ.
        text = "\x1f".join((str(self.root), *self.path))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

    def numpy(self) -> np.random.Generator:
        """Return a new NumPy generator, at the start of this node's stream."""
        return np.random.default_rng(self.seed())

    def torch(self) -> torch.Generator:
        """Return a new generator on the CPU, so that its draws are the same for every device."""
        import torch  # for seconds, which a process that only plans does without

        return torch.Generator().manual_seed(self.seed())

    @contextlib.contextmanager
    def scoped(self) -> Iterator[None]:
        """Seed torch's global generators inside the block (weight initialisation, dropout), then restore them.

        Of several GPUs only the generator of the one in use is restored: to read those of the others would create a
        context of some hundred MiB on each, also in processes that compute on the CPU.
        """
        import torch

        from wmdd.runtime import device_in_use

        devices = device_in_use()
        # torch.manual_seed would also queue the seed for a GPU that is not in use, with a text of the whole stack:
        # up to 2 ms in each epoch.
        seed = torch.manual_seed if devices else torch.default_generator.manual_seed
        with torch.random.fork_rng(devices=devices):
            seed(self.seed())
            yield
