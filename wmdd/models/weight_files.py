"""What people bring as a file of weights, read without running code: a state dict, or why it is none."""

from __future__ import annotations

import argparse
import collections
import io
import json
import pathlib
import re
import types
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from wmdd.errors import ConfigError
from wmdd.files import open_fs, read

State = dict[str, Tensor]
# Plain values that trainers keep beside the weights: their command line, a path, a best score of NumPy.
_PLAIN: list[Any] = [argparse.Namespace, types.SimpleNamespace, collections.defaultdict]
_PLAIN += [pathlib.PosixPath, pathlib.PurePosixPath, np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefd")]
_SCALAR = np.float64(0).__reduce__()[0]  # files name it by the module that it had when they were written
_PLAIN += [(_SCALAR, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")]
_WRAPPERS = ("model", "state_dict", "model_state_dict", "net")  # of several networks in a file, the first of these
_AVERAGED = re.compile(r"(?i)(^|_|\.)(ema|swa|averaged?)(_|\.|$)")
_OTHERS = {"tf": "TensorFlow", "flax": "Flax", "jax": "JAX", "mlx": "MLX", "keras": "Keras"}


@dataclass(frozen=True)
class Loaded:
    """A state dict from a file.

    Args:
        card: what wmdd wrote beside a teacher's weights; empty for other files.
        origin: another framework that the file names as its own, "" if none.
        notes: what else the file holds and was not taken.
    """

    state: State
    card: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    notes: tuple[str, ...] = ()


def is_file(source: str) -> bool:
    """Whether weights are a file, and not the name of published ones."""
    return ("/" in source or "." in source) and not re.fullmatch(r"\w+_Weights\.\w+", source)


def read_bytes(source: str) -> bytes:
    """Return the content of a file of weights.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        return read(*open_fs(source))
    except ConfigError as exc:
        raise ConfigError(f"pretrain.weights={exc}") from exc
    except IsADirectoryError as exc:
        raise ConfigError(
            f"pretrain.weights={source}: is a folder; name the file in it, such as model.safetensors"
        ) from exc
    except FileNotFoundError as exc:
        raise ConfigError(
            f"pretrain.weights={source}: there is no such file; give a .safetensors or .pth file"
        ) from exc
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"pretrain.weights={source}: cannot be read ({exc}); give a .safetensors or .pth file"
        ) from exc


def card_in(source: str) -> dict[str, Any]:
    """Return the card that wmdd writes into a teacher's file; an empty one for other files."""
    if not is_file(source) or not source.endswith(".safetensors"):
        return {}
    return _card(_metadata(read_bytes(source)))


def read_weights(source: str) -> Loaded:
    """Read the state dict of a file.

    Raises:
        ConfigError: with what the file is in its place, and what to do.
    """
    data = read_bytes(source)
    if told := _foreign(data):
        raise ConfigError(f"pretrain.weights={source}: {told}")
    try:
        if _is_safetensors(data) or (source.endswith(".safetensors") and data[:1] not in (b"P", b"\x80")):
            metadata = _metadata(data)
            origin = _OTHERS.get(str(metadata.get("format")), "")
            return Loaded(dict(safetensors.torch.load(data)), _card(metadata), origin)
        with torch.serialization.safe_globals(_PLAIN):
            loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (ValueError, RuntimeError, EOFError, safetensors.SafetensorError) as exc:
        told = " ".join(str(exc).split())[:100] or "it is empty"
        raise ConfigError(f"pretrain.weights={source}: is cut short or damaged ({told}); fetch it again") from exc
    except Exception as exc:  # the safe unpickler's refusals share no type
        found = re.search(r"GLOBAL ([\w.]+)", str(exc))
        told = f" (it holds a {found[1]})" if found else ""
        raise ConfigError(
            f"pretrain.weights={source}: not a file of plain tensors{told}; save the state dict alone: "
            "torch.save(model.state_dict(), FILE)"
        ) from exc
    return _state_of(loaded, source)


def _state_of(loaded: Any, source: str) -> Loaded:
    """Find the state dict in what a checkpoint holds."""
    if _is_state(loaded):
        return Loaded(dict(loaded))
    found = _states(loaded) if isinstance(loaded, dict) else {}
    plain = [name for name in found if not _AVERAGED.search(name)]
    wanted = plain or list(found)
    if not wanted:
        raise ConfigError(
            f"pretrain.weights={source}: holds no state dict; save one: torch.save(model.state_dict(), FILE)"
        )
    known = [name for wrapper in _WRAPPERS for name in wanted if name.split(".")[0] == wrapper]
    if len(wanted) > 1 and not known:
        raise ConfigError(
            f"pretrain.weights={source}: holds several networks ({', '.join(wanted[:5])}); save the state dict of one"
        )
    taken = (known or wanted)[0]
    left = [name for name in found if name != taken]
    notes = [f"pretrain.weights={source}: took {taken}, and not {', '.join(left)}, which the file also holds"]
    return Loaded(dict(found[taken]), notes=tuple(notes if left else ()))


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in value.items())
    )


def _states(loaded: dict[Any, Any], above: str = "", depth: int = 3) -> dict[str, State]:
    """List the state dicts in a checkpoint by their path; optimisers keep theirs below numbers, and have none."""
    found: dict[str, State] = {}
    for name, value in loaded.items():
        if _is_state(value):
            found[f"{above}{name}"] = value
        elif isinstance(value, dict) and depth and isinstance(name, str) and "optim" not in name:
            found |= _states(value, f"{above}{name}.", depth - 1)
    return found


def _is_safetensors(data: bytes) -> bool:
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 2**27


def _metadata(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(header.get("__metadata__", {}))
    except (ValueError, AttributeError, TypeError):  # damaged: loading it tells
        return {}


def _card(metadata: dict[str, Any]) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads(metadata["wmdd"])
        return card if "class_names" in card else {}
    except (ValueError, KeyError, TypeError):  # another program's file
        return {}


def _foreign(data: bytes) -> str:
    """Return what a file is that is known by its first bytes and holds no weights for torch; "" for others."""
    head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if data.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file; run git lfs pull"
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "is a web page, not the file; fetch it by its download link (with /resolve/ or /raw/ in place of /blob/)"
    if head.startswith(b"{") and not _is_safetensors(data):
        return "is text in JSON, such as a list of the parts of weights; give the file of weights itself, in one part"
    if data.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")) or data[257:262] == b"ustar":
        return "is a compressed file or an archive; unpack it, and give the file of weights in it"
    if data.startswith(b"\x89HDF"):
        return "is a file of HDF5 (Keras); convert it to a state dict of torch"
    if data.startswith(b"\x93NUMPY"):
        return "is an array of NumPy; save a state dict of torch"
    return _foreign_zip(data) if data.startswith(b"PK") else ""


def _foreign_zip(data: bytes) -> str:
    """Return what a zip archive is that torch.save did not write; "" for torch's, and for a damaged one."""
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return ""
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        return (
            "is a TorchScript archive; save its state_dict: "
            'torch.save(torch.jit.load(FILE).state_dict(), "weights.pth")'
        )
    if "data.pkl" in ends:
        return ""
    if ends & {"archive_format", "serialized_exported_program.json", "exported_program.json"}:
        return (
            'is a program of torch.export; save its state_dict: torch.save(torch.export.load(FILE).state_dict, "a.pth")'
        )
    if any(name.endswith(".npy") for name in ends):
        return "is an archive of NumPy's arrays (.npz); save a state dict of torch"
    if "model.weights.h5" in ends:
        return "is a file of Keras; convert it to a state dict of torch"
    return "is a zip archive; unpack it, and give the file of weights in it"
