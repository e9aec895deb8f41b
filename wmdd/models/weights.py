"""Load a teacher's weights strictly: no layer stays random, nothing is unpickled."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from wmdd.models.foreign_files import MERGE, part
from wmdd.models.names import is_file
from wmdd.models.published import build_published, is_published_file
from wmdd.models.registry import SHIFTING, load_state
from wmdd.models.weight_files import State, card_in, read_weights, refused
from wmdd.text import counted

AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # heads for training only, which our networks leave out


def load_weights(network: nn.Module, source: str, name: str, image_size: int | None = None) -> tuple[str, ...]:
    """Load weights into a network.

    A file follows torch's own rules: an absent count of batches is 0, and old names of DenseNet's and the vision
    transformer's layers are known. All else must fit.

    Args:
        source: URL of a ``.safetensors`` file, of a PyTorch checkpoint of plain tensors (bare, or below ``model``,
            ``state_dict``, ``model_state_dict``, ``net`` or another name; keys of the released WMDD, SRe2L and FADRM
            networks are translated), ``default`` for the published weights of torchvision or timm, or the name of one
            of torchvision's, such as ``IMAGENET1K_V1`` (both download, and load as their library loads them).
        name: of the network, for `default` and messages.
        image_size: of the network's input, px, for `default` of timm.

    Returns:
        Notes about the file, each a line.

    Raises:
        ConfigError: if the file is missing or does not fit; names the first keys that differ.
    """
    origin, notes = "", tuple[str, ...]()
    if is_file(source):
        loaded = read_weights(source)
        state, origin, notes = loaded.state, loaded.origin, loaded.notes
        shifts = bool(loaded.card.get("transform_input")) or is_published_file(name, source)
    else:
        theirs = build_published(name, source, image_size)
        state, shifts = dict(theirs.state_dict()), bool(getattr(theirs, "transform_input", False))
    ours = network.state_dict()
    state = _completed(translated(state, set(ours)), ours, name)
    _check_fit(ours, state, source, name, origin)
    load_state(network, state, transform_input=shifts)
    return notes


def _completed(state: State, ours: State, name: str) -> State:
    """Return a state dict as torch completes those of older versions, without what only training needs."""
    heads = AUXILIARY if name.removeprefix("timm/") in SHIFTING else ()
    # n_averaged: torch's count of an average's updates.
    unused = {key for key in state if key.startswith(heads) or key == "n_averaged"}
    state = {key: value for key, value in state.items() if key in ours or key not in unused}
    for key, value in ours.items():
        if key not in state and key.rpartition(".")[2] == "num_batches_tracked":
            state[key] = torch.zeros_like(value)
        elif key in state and value.ndim == 0 and tuple(state[key].shape) == (1,):
            state[key] = state[key][0]
    return state


def _check_fit(ours: State, state: State, source: str, name: str, origin: str) -> None:
    if misfits := _misfits(ours, state):
        keys = counted(sum(map(len, misfits.values())), "key", "keys")
        # Of shapes, the first shows the stem, and the last the number of classes.
        ends = {what: (keys[0], keys[-1]) if what == "has" else keys[:1] for what, keys in misfits.items()}
        shown = ", ".join(f"{what} {', '.join(dict.fromkeys(keys))}" for what, keys in ends.items())
        remedy = "check pretrain.model, pretrain.stem and the number of classes"
        if which := part(source):
            remedy = f"by its name it is {which}: {MERGE}"
        elif origin:
            remedy = f"it is of {origin}: convert it to torch"
        raise refused(source, f"does not fit {name} with these classes and stem ({keys}: it {shown}); {remedy}")
    for key in (key for key, value in ours.items() if value.is_floating_point()):
        if state[key].is_quantized or not state[key].is_floating_point():
            held = f"holds {key} as {str(state[key].dtype).removeprefix('torch.')}"
            raise refused(source, f"{held}; save the weights before they are quantised")
        if not torch.isfinite(state[key]).all():
            held = f"holds NaN or infinite values (first in {key})"
            raise refused(source, f"{held}; its training diverged, so take an earlier checkpoint")


def _misfits(ours: State, state: State) -> dict[str, list[str]]:
    """Return the keys that a file lacks, adds, or has in another shape, in the order of the layers."""
    shapes = [(key, tuple(state[key].shape), tuple(ours[key].shape)) for key in ours if key in state]
    misfits = {
        "lacks": [key for key in ours if key not in state],
        "adds": [key for key in state if key not in ours],
        "has": [f"{key} of shape {theirs}, here {here}" for key, theirs, here in shapes if theirs != here],
    }
    return {what: keys for what, keys in misfits.items() if keys}


def check_card(source: str, class_names: tuple[str, ...], image_size: int, normalization: str) -> None:
    """Raise ConfigError for a teacher of other classes, of another order of classes, or of another input."""
    card = card_in(source)
    for field, wanted in (("image_size", image_size), ("normalization", normalization)):
        if card.get(field) not in (None, wanted):
            raise refused(source, f"was trained with data.{field}={card[field]}, not {wanted}; set it")
    names = tuple(card.get("class_names", ()))
    if names and names != class_names:
        position = next((i for i, pair in enumerate(zip(names, class_names, strict=False)) if pair[0] != pair[1]), None)
        if position is None:
            difference = f"it has {len(names)} classes, the data {len(class_names)}"
        else:
            theirs, ours = names[position], class_names[position]
            difference = f"its output {position} is {theirs}, the data's class {position} is {ours}"
        remedy = "set data.classes to the teacher's, in its order"
        raise refused(source, f"was trained on other classes, or in another order ({difference}); {remedy}")


def translated(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Return weights under the names of torchvision's and our networks.

    A name is changed only when the network has the new one and not the old one, so nothing that fits is touched.
    """
    shared = _shared_prefix(state, wanted)
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix(shared)
        for pattern, replacement in _NAMES:
            if name in wanted:
                break
            name = re.sub(pattern, replacement, name)
        renamed[name if name in wanted else key.removeprefix("module.")] = value
    return renamed


def _shared_prefix(state: dict[str, Tensor], wanted: set[str]) -> str:
    """Return what precedes all names of a file, such as "backbone.", if the network has the names behind it."""
    keys = [key for key in state if key != "n_averaged"]
    first = min(keys, default="").split(".")
    for count in range(len(first) - 1, 0, -1):
        prefix = ".".join(first[:count]) + "."
        if all(key.startswith(prefix) and key not in wanted for key in keys):
            return prefix if any(key.removeprefix(prefix) in wanted for key in keys) else ""
    return ""


# Of wrappers, of the released WMDD network's down-sampling, of the CIFAR networks that SRe2L and FADRM train, and of
# torchvision's DenseNet and vision transformer as they were saved at first.
_NAMES = (
    (r"^(module|_orig_mod|model|net|network|backbone)\.", ""),
    (r"^(module|_orig_mod|model|net|network|backbone)\.", ""),
    (r"downsample\.conv\.", "downsample.0."),
    (r"downsample\.norm\.", "downsample.1."),
    (r"(^|\.)shortcut\.(\d)\.", r"\1downsample.\2."),
    (r"^linear\.", "fc."),
    (r"^classifier\.", "head."),
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"\.mlp\.linear_1\.", ".mlp.0."),
    (r"\.mlp\.linear_2\.", ".mlp.3."),
)
