"""What the store holds: values with their files, as data and never as code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor


class Files(Protocol):
    """The files of one stored artifact."""

    def read(self, name: str) -> bytes:
        """Return the whole content of a file."""


class Artifact(Protocol):
    """A value that can be stored: data only, never code."""

    def to_files(self) -> dict[str, bytes]:
        """Return the content of each file by its name."""

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read what `to_files` returned."""


def pack(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """Return tensors, and metadata that fits into JSON, as one safetensors file."""
    import safetensors.torch  # for seconds, which a process that only plans does without

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data: bytes = safetensors.torch.save(plain, metadata={"wmdd": json.dumps(meta)})
    return data


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the metadata of what `pack` returned."""
    import safetensors.torch

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return safetensors.torch.load(data), json.loads(header["__metadata__"]["wmdd"])
