"""Published weights: their classes and normalisation, and how torchvision and timm load them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from wmdd.models.registry import SHIFTING, create_timm
from wmdd.models.weight_files import read_bytes, refused
from wmdd.normalization import NORMALIZATIONS, Normalization
from wmdd.text import one_line

PATIENCE_S = 30


def check_published(name: str, source: str, num_classes: int | None, normalization: str) -> None:
    """Raise ConfigError, before any download, for published weights that do not exist or do not fit the data.

    Args:
        num_classes: of the data; None if they are not counted yet.
        normalization: of the data; the weights must have been trained with its mean and std.
    """
    known, mean, std = _card(name, source)
    if None not in (known, num_classes) and known != num_classes:
        remedy = "train a teacher (--pretrain.checkpoint none), or give a file of one for these classes"
        raise refused(source, f"knows {known} classes, and the data has {num_classes}; {remedy}")
    if len(mean) == 3 and not _near(NORMALIZATIONS[normalization], mean, std):
        fitting = next((item.name for item in NORMALIZATIONS.values() if _near(item, mean, std)), None)
        remedy = f"set it to {fitting}" if fitting else "no value of it does, so choose another network"
        pixels = f"saw pixels of mean {_shown(mean)} and std {_shown(std)}"
        raise refused(source, f"{pixels}, which data.normalization={normalization} does not make; {remedy}")


def known_classes(name: str, source: str) -> int | None:
    """Return the number of classes of published weights; None if the library does not say."""
    return _card(name, source)[0]


def build_published(name: str, source: str, image_size: int | None = None) -> nn.Module:
    """Return a network with its published weights, loaded by its library, which knows older forms of its files.

    Args:
        image_size: for networks of timm that are built for one size, px; their library fits the weights to it.

    Raises:
        ConfigError: if the network has none, they cannot be fetched, or their file is damaged.
    """
    weights = published(name, source)
    if weights is None:
        return _from_timm(name.removeprefix("timm/"), source, image_size)
    import torchvision.models as zoo

    file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
    try:
        with _fetching():
            network: nn.Module = zoo.get_model(name, weights=weights, progress=False)
            return network
    except Exception as exc:  # of sockets, disks, archives and torch
        cause = one_line(exc, 160)
        if os.path.exists(file):
            raise refused(source, f"{file} does not load ({cause}); remove it, and it is fetched again") from exc
        where = f"put {weights.url} into {os.path.dirname(file)} (TORCH_HOME names it)"
        remedy = f"{where}, or give that file: --pretrain.checkpoint FILE"
        raise refused(source, f"cannot be fetched ({cause}); {remedy}") from exc


def _from_timm(name: str, source: str, image_size: int | None) -> nn.Module:
    import timm

    try:
        with _fetching():
            overlay = _cached(timm.get_pretrained_cfg(name))
            return create_timm(name, image_size, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as exc:  # of sockets, the hub's client, archives and torch
        where = "fetch it where there is a network (timm keeps it below HF_HOME or TORCH_HOME)"
        remedy = f"{where}, or give its file: --pretrain.checkpoint FILE"
        raise refused(source, f"timm cannot load its {name} ({one_line(exc, 160)}); {remedy}") from exc


def _cached(config: Any) -> dict[str, str]:
    """Return where the hub's client has cached a file; if it has none, check with one request whether the hub answers.

    Without a network the client retries five times, for most of a minute.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if config is None or not config.hf_hub_id or config.file:
        return {}
    for file in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        path = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, file) if file else None
        if isinstance(path, str):
            return {"file": path}
    if not constants.HF_HUB_OFFLINE:
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, if only a refusal
            urllib.request.urlopen(
                urllib.request.Request(f"{constants.ENDPOINT}/{config.hf_hub_id}", method="HEAD"), timeout=PATIENCE_S
            ).close()
    return {}


@contextlib.contextmanager
def _fetching() -> Iterator[None]:
    """Within the block, torch loads plain tensors only, and a server that does not answer is a timeout."""
    before, patience = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD"), socket.getdefaulttimeout()
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(patience)
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _near(normalization: Normalization, mean: Sequence[float], std: Sequence[float]) -> bool:
    return all(
        abs(a - b) < 0.005 for a, b in zip((*normalization.mean, *normalization.std), (*mean, *std), strict=True)
    )


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _card(name: str, source: str) -> tuple[int | None, Sequence[float], Sequence[float]]:
    """Return the number of classes of published weights, and the mean and std of the pixels that they saw."""
    weights = published(name, source)
    if weights is not None:
        transforms = weights.transforms()
        return len(weights.meta["categories"]), transforms.mean, transforms.std
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix("timm/"))
    return (None, (), ()) if config is None else (int(config.num_classes), config.mean, config.std)


def published(name: str, source: str) -> Any:
    """Return torchvision's published weights; None if the network is timm's, and `source` its default."""
    import torchvision.models as zoo

    if not name.startswith("timm/") and name in zoo.list_models(module=zoo):
        versions = zoo.get_model_weights(name)
        enum, _, version = source.rpartition(".")
        version = "DEFAULT" if source == "default" else version
        if version not in versions.__members__ or enum not in ("", versions.__name__):
            choice = ", ".join(["default", *versions.__members__])
            remedy = f"choose from {choice}, or give a file{_here(source)}"
            raise refused(source, f"no published weights of {name}; {remedy}")
        return versions[version]
    import timm

    if not timm.is_model_pretrained(name.removeprefix("timm/")):
        remedy = f"leave it out to train one, or give a file{_here(source)}"
        raise refused(source, f"{name} has no published weights; {remedy}")
    if source != "default":
        raise refused(source, f"no such file; {name} has its weights by default or in a file{_here(source)}")
    return None


def _here(source: str) -> str:
    return f" (the one here is ./{source})" if os.path.exists(source) else ""


def is_published_file(name: str, source: str) -> bool:
    """Whether a user's file is the published one of a network that shifts its input if it is built with it.

    The state dict does not show it, but the name of the published file ends with the first digits of its SHA-256.
    """
    if name not in SHIFTING:
        return False
    digits = os.path.basename(published(name, "default").url).removesuffix(".pth").rpartition("-")[2]
    return hashlib.sha256(read_bytes(source)).hexdigest().startswith(digits)
