"""What can be stored: values that know their files, as data and never as code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, Self

import safetensors.torch
from torch import Tensor


class Files(Protocol):
    """The files of one stored artifact."""

    def read(self, name: str) -> bytes:
        """Give the whole content of a file."""


class Artifact(Protocol):
    """A value that can be stored: data only, never code."""

    def to_files(self) -> dict[str, bytes]:
        """Give file names and contents."""

    @classmethod
    def from_files(cls, files: Files) -> Self:
        """Read what `to_files` wrote."""


def pack(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """Write tensors and JSON-able facts as one safetensors file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data: bytes = safetensors.torch.save(plain, metadata={"wmdd": json.dumps(meta)})
    return data


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `pack` wrote."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return safetensors.torch.load(data), json.loads(header["__metadata__"]["wmdd"])
