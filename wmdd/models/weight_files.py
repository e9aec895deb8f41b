"""Read a state dict from a user's file of weights without running code, or raise what the file is."""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pathlib
import re
import types
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from wmdd.errors import ConfigError
from wmdd.models.foreign_files import folder, foreign, is_safetensors, unread
from wmdd.models.names import is_file
from wmdd.storage.filesystem import explain, is_local, open_fs, read
from wmdd.storage.pointers import broken_link
from wmdd.text import one_line

State = dict[str, Tensor]
# Plain values that trainers save with the weights: their command line, a path, a best score of NumPy.
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
        card: metadata that wmdd writes with a teacher's weights; empty for other files.
        origin: another framework that the file names, "" if none.
        notes: what else the file holds and is not used.
    """

    state: State
    card: dict[str, Any] = field(default_factory=dict)
    origin: str = ""
    notes: tuple[str, ...] = ()


def refused(source: str, reason: str) -> ConfigError:
    """Return the error for weights that cannot be used."""
    return ConfigError(f"pretrain.checkpoint={source}: {reason}")


def read_bytes(source: str) -> bytes:
    """Return the content of a file of weights.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        fs, path = open_fs(source)
    except ConfigError as exc:
        raise ConfigError(f"pretrain.checkpoint={exc}") from exc
    if is_local(fs) and (fault := broken_link(path)):
        raise refused(source, f"{fault[0]}; {fault[1]}")
    if is_local(fs) and os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise refused(source, "is a pipe or a device; give a file")  # it is read many times
    try:
        return read(fs, path)
    except IsADirectoryError as exc:
        raise refused(source, folder(fs, path, source)) from exc
    except FileNotFoundError as exc:
        raise refused(source, "there is no such file; give a .safetensors or .pth file") from exc
    except OSError as exc:
        raise refused(source, f"cannot be read {explain(exc)}") from exc
    except ValueError as exc:
        raise refused(source, f"cannot be read ({exc}); give a .safetensors or .pth file") from exc


def card_in(source: str) -> dict[str, Any]:
    """Return the card that wmdd writes into a teacher's file; an empty one for other files."""
    if not is_file(source) or not source.endswith(".safetensors"):
        return {}
    return _card(_metadata(read_bytes(source)))


def read_weights(source: str) -> Loaded:
    """Return the state dict of a file.

    Raises:
        ConfigError: if it holds none; says what it is, and the remedy.
    """
    data = read_bytes(source)
    if fault := foreign(data):
        raise refused(source, fault)
    try:
        if is_safetensors(data) or (source.endswith(".safetensors") and data[:1] not in (b"P", b"\x80")):
            metadata = _metadata(data)
            origin = _OTHERS.get(str(metadata.get("format")), "")
            return Loaded(dict(safetensors.torch.load(data)), _card(metadata), origin)
        with torch.serialization.safe_globals(_PLAIN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's versions: what cannot be read is refused below
            loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (ValueError, RuntimeError, EOFError, safetensors.SafetensorError) as exc:
        reason = one_line(exc).partition(". ")[0][:100] if data else "it is empty"
        raise refused(source, f"is cut short or damaged ({reason}); fetch it again") from exc
    except Exception as exc:  # the safe unpickler's refusals share no type
        if what := unread(data, source):
            raise refused(source, what) from exc
        name = re.search(r"GLOBAL ([\w.]+)", str(exc))
        held = f" (it holds a {name[1]})" if name else ""
        remedy = "save the state dict alone: torch.save(model.state_dict(), FILE)"
        raise refused(source, f"not a file of plain tensors{held}; {remedy}") from exc
    return _state_of(loaded, source)


def _state_of(loaded: Any, source: str) -> Loaded:
    """Return the state dict among the values of a checkpoint."""
    if _is_state(loaded):
        return Loaded(dict(loaded))
    states = _states(loaded) if isinstance(loaded, dict) else {}
    plain = [name for name in states if not _AVERAGED.search(name)]
    wanted = plain or list(states)
    if not wanted:
        raise refused(source, "holds no state dict; save one: torch.save(model.state_dict(), FILE)")
    known = [name for wrapper in _WRAPPERS for name in wanted if name.split(".")[0] == wrapper]
    if len(wanted) > 1 and not known:
        raise refused(source, f"holds several networks ({', '.join(wanted[:5])}); save that of one")
    taken = (known or wanted)[0]
    left = [name for name in states if name != taken]
    notes = [f"pretrain.checkpoint={source}: took {taken}, and not {', '.join(left)}, which the file also holds"]
    return Loaded(dict(states[taken]), notes=tuple(notes if left else ()))


def _is_state(value: Any) -> bool:
    items = value.items() if isinstance(value, dict) else ()
    return bool(items) and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in items)


def _states(loaded: dict[Any, Any], above: str = "", depth: int = 3) -> dict[str, State]:
    """Return the state dicts in a checkpoint by their path, but for those of optimisers."""
    states: dict[str, State] = {}
    for name, value in loaded.items():
        if _is_state(value):
            states[f"{above}{name}"] = value
        elif isinstance(value, dict) and depth and isinstance(name, str) and "optim" not in name:
            states |= _states(value, f"{above}{name}.", depth - 1)
    return states


def _metadata(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(header.get("__metadata__", {}))
    except (ValueError, AttributeError, TypeError):  # damaged: loading it raises
        return {}


def _card(metadata: dict[str, Any]) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads(metadata["wmdd"])
        return card if "class_names" in card else {}
    except (ValueError, KeyError, TypeError):  # another program's file
        return {}
