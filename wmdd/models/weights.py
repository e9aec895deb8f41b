"""Load a user's weights strictly: nothing is left random in silence, nothing is unpickled."""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from wmdd.data.normalization import NORMALIZATIONS, Normalization
from wmdd.errors import ConfigError
from wmdd.files import open_fs, read


def load_weights(network: nn.Module, source: str, name: str) -> None:
    """Load weights into a network.

    Args:
        source: URL of a ``.safetensors`` file, of a PyTorch checkpoint of plain tensors (bare, or below ``model``,
            ``state_dict``, ``model_state_dict`` or ``net``; keys of the released WMDD, SRe2L and FADRM networks are
            translated), ``default`` for the published weights of torchvision or timm, or the name of one of
            torchvision's, such as ``IMAGENET1K_V1`` (both download).
        name: of the network, for `default` and messages.

    Raises:
        ConfigError: if the file is missing or does not fit; names the first keys that differ.
    """
    state = _read(source) if is_file(source) else _published(name, source)
    own = network.state_dict()
    state = translated(state, set(own))
    found = _misfits(own, state)
    if found:
        count = sum(map(len, found.values()))
        # Of shapes the first tells the stem, and the last the number of classes.
        shown = (
            ", ".join(dict.fromkeys((keys[0], keys[-1] if what == "has" else keys[0]))) for what, keys in found.items()
        )
        told = ", ".join(f"{what} {keys}" for what, keys in zip(found, shown, strict=True))
        keys = "1 key" if count == 1 else f"{count} keys"
        raise ConfigError(
            f"pretrain.weights={source}: does not fit {name} with these classes and stem ({keys}: it {told}); check "
            "pretrain.model, pretrain.stem and the number of classes"
        )
    network.load_state_dict(state, strict=True)


def _misfits(own: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, list[str]]:
    """List the keys that a file lacks, adds, or has in another shape, in the order of the layers."""
    shapes = [(key, tuple(state[key].shape), tuple(own[key].shape)) for key in own if key in state]
    found = {
        "lacks": [key for key in own if key not in state],
        "adds": [key for key in state if key not in own],
        "has": [f"{key} of shape {theirs}, here {ours}" for key, theirs, ours in shapes if theirs != ours],
    }
    return {what: keys for what, keys in found.items() if keys}


def _bytes(source: str) -> bytes:
    try:
        return read(*open_fs(source))
    except ConfigError as exc:
        raise ConfigError(f"pretrain.weights={exc}") from exc
    except OSError as exc:
        raise ConfigError(f"pretrain.weights={source}: cannot be read: {exc}") from exc


def card_in(source: str) -> dict[str, Any]:
    """Give the card that wmdd writes into a teacher's file; an empty one for other files."""
    if not is_file(source) or not source.endswith(".safetensors"):
        return {}
    data = _bytes(source)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        card: dict[str, Any] = json.loads(header["__metadata__"]["wmdd"])
        return card if "class_names" in card else {}
    except (ValueError, KeyError, TypeError):  # another program's file, or none: loading it tells
        return {}


def check_card(source: str, class_names: tuple[str, ...], image_size: int, normalization: str) -> None:
    """Refuse a teacher whose outputs stand for other classes, or for the same in another order, or that saw images in
    another way.

    Raises:
        ConfigError: names the first that differs.
    """
    card = card_in(source)
    for option, seen, wanted in (
        ("data.image_size", card.get("image_size"), image_size),
        ("data.normalization", card.get("normalization"), normalization),
    ):
        if seen is not None and seen != wanted:
            raise ConfigError(f"pretrain.weights={source}: was trained with {option}={seen}, not {wanted}; set it so")
    own = tuple(card.get("class_names", ()))
    if own and own != class_names:
        place = next((i for i, pair in enumerate(zip(own, class_names, strict=False)) if pair[0] != pair[1]), None)
        if place is None:
            told = f"it has {len(own)} classes, the data {len(class_names)}"
        else:
            told = f"its output {place} is {own[place]}, the data's class {place} is {class_names[place]}"
        raise ConfigError(
            f"pretrain.weights={source}: was trained on other classes, or in another order ({told}); set data.classes "
            "to the teacher's, in its order"
        )


def _read(source: str) -> dict[str, Tensor]:
    data = _bytes(source)
    try:
        if source.endswith(".safetensors"):
            return dict(safetensors.torch.load(data))
        # The released checkpoints keep their command line beside the weights: plain values, once this class is known.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (ValueError, RuntimeError, EOFError, safetensors.SafetensorError) as exc:
        told = " ".join(str(exc).split())[:100] or "it is empty"
        raise ConfigError(f"pretrain.weights={source}: is cut short or damaged ({told}); fetch it again") from exc
    except Exception as exc:  # the safe unpickler's refusals share no type
        raise ConfigError(f"pretrain.weights={source}: not a file of plain tensors; save the state dict alone") from exc
    for wrapper in ("model", "state_dict", "model_state_dict", "net"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ConfigError(f"pretrain.weights={source}: holds no state dict")
    return loaded


def is_file(source: str) -> bool:
    """Tell a file of weights from the name of published ones."""
    return ("/" in source or "." in source) and not re.fullmatch(r"\w+_Weights\.\w+", source)


def translated(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Give weights the names that torchvision's and our networks have, where the file has others.

    A name is changed only when the network has the new one and not the old one, so nothing that fits is touched.
    """
    found = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in _NAMES:
            if name in wanted:
                break
            name = re.sub(pattern, replacement, name)
        found[name if name in wanted else key.removeprefix("module.")] = value
    return found


# Of wrappers, of the released WMDD network's down-sampling, and of the CIFAR networks that SRe2L and FADRM train.
_NAMES = (
    (r"^(module|_orig_mod|model|net|network)\.", ""),
    (r"^(module|_orig_mod|model|net|network)\.", ""),
    (r"downsample\.conv\.", "downsample.0."),
    (r"downsample\.norm\.", "downsample.1."),
    (r"(^|\.)shortcut\.(\d)\.", r"\1downsample.\2."),
    (r"^linear\.", "fc."),
    (r"^classifier\.", "head."),
)


def check_published(name: str, source: str, num_classes: int, normalization: str) -> None:
    """Refuse published weights that there are not, that know another number of classes, or that saw pixels of another
    mean and deviation, before any download.

    Raises:
        ConfigError: with those that there are, or with what they know and what was asked for.
    """
    known, mean, std = _facts(name, source)
    if known is not None and known != num_classes:
        raise ConfigError(
            f"pretrain.weights={source}: knows {known} classes, and the data has {num_classes}; train a teacher "
            "(--pretrain.weights none), or give a file of one for these classes"
        )
    if len(mean) == 3 and not _near(NORMALIZATIONS[normalization], mean, std):
        fitting = next((own.name for own in NORMALIZATIONS.values() if _near(own, mean, std)), None)
        remedy = f"set it to {fitting}" if fitting else "no value of it does, so choose another network"
        raise ConfigError(
            f"pretrain.weights={source}: saw pixels of mean {_shown(mean)} and deviation {_shown(std)}, which "
            f"data.normalization={normalization} does not make; {remedy}"
        )


def _near(own: Normalization, mean: Sequence[float], std: Sequence[float]) -> bool:
    return all(abs(a - b) < 0.005 for a, b in zip((*own.mean, *own.std), (*mean, *std), strict=True))


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _facts(name: str, source: str) -> tuple[int | None, Sequence[float], Sequence[float]]:
    """Give published weights' number of classes, and the mean and deviation of the pixels that they saw."""
    found = _torchvision(name, source)
    if found is not None:
        shown = found.transforms()
        return len(found.meta["categories"]), shown.mean, shown.std
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix("timm/"))
    return (None, (), ()) if config is None else (int(config.num_classes), config.mean, config.std)


def _torchvision(name: str, source: str) -> Any:
    """Find torchvision's published weights; None where the network is another library's, and `source` its default."""
    import torchvision.models as zoo

    if not name.startswith("timm/") and name in zoo.list_models(module=zoo):
        kind = zoo.get_model_weights(name)
        wanted = "DEFAULT" if source == "default" else source.rpartition(".")[2]
        if wanted not in kind.__members__:
            raise ConfigError(
                f"pretrain.weights={source}: no published weights of {name}; choose from "
                f"{', '.join(['default', *kind.__members__])}, or give a file"
            )
        return kind[wanted]
    import timm

    if not timm.is_model_pretrained(name.removeprefix("timm/")):
        raise ConfigError(
            f"pretrain.weights={source}: {name} has no published weights; leave it out to train one, or give a file"
        )
    if source != "default":
        raise ConfigError(f"pretrain.weights={source}: no such file; {name} has its weights by default, or in a file")
    return None


def _published(name: str, source: str) -> dict[str, Tensor]:
    found = _torchvision(name, source)
    if found is not None:
        state: dict[str, Tensor] = found.get_state_dict(progress=False)
        return state
    import timm

    model: nn.Module = timm.create_model(name.removeprefix("timm/"), pretrained=True)
    return dict(model.state_dict())
