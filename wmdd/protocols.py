"""How students are trained and scored, by the names of the papers whose numbers are to be compared with.

A protocol sets every option that decides a student's score: those of ``relabel`` and ``evaluate``. Where a published
code does something else than its paper says, the paper is followed, and the line below says so. Scores carry the
protocol's name and a hash of all these options, so that a changed one is told apart.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

from wmdd.config import SMALL_BELOW_PX, DistillConfig, Protocol, override
from wmdd.errors import ConfigError
from wmdd.recipes import CLASSES

# The settings of networks for ImageNet-1K; a protocol names those that differ for other sets.
_COMMON: dict[str, Any] = {
    "relabel.epochs": 300,
    "relabel.batch_size": 100,
    "relabel.crop_scale": (0.08, 1.0),
    "relabel.flip": True,
    "relabel.mix": "cutmix",
    "relabel.mix_alpha": 1.0,
    "relabel.bn": "running",
    "relabel.micro_batch": 0,
    "evaluate.labels": "soft",
    "evaluate.loss": "kl",
    "evaluate.ce_weight": 0.0,
    "evaluate.augment": "none",
    "evaluate.temperature": 20.0,
    "evaluate.optimizer": "adamw",
    "evaluate.momentum": 0.9,
    "evaluate.lr": 1e-3,
    "evaluate.weight_decay": 0.01,
    "evaluate.schedule": "cosine",
    "evaluate.cosine_stretch": 1.0,
    "evaluate.accumulate": 1,
    "evaluate.ema": 0.0,
    "evaluate.val_every": 10,
}


def _is_cifar(config: DistillConfig) -> bool:
    return config.recipe.startswith("cifar")


def _classes(config: DistillConfig) -> int:
    return CLASSES.get(config.recipe, 10)


def _nearest(by_ipc: dict[int, Any], ipc: int) -> Any:
    return by_ipc[min(by_ipc, key=lambda known: abs(known - ipc))]


def _rded(config: DistillConfig) -> dict[str, Any]:
    classes = _classes(config)
    batch = 100 if classes == 200 else _nearest({1: 10, 10: 50, 50: 100}, config.barycenter.ipc)
    rates = {_rded_rate(name) for name in config.evaluate.students}
    if len(rates) > 1:
        raise ConfigError(
            f"evaluate.students={','.join(config.evaluate.students)}: protocol rded trains them with different "
            "learning rates; evaluate them in runs of their own (they share the store)"
        )
    return {
        "relabel.batch_size": batch * 2 if classes in (100, 1000) else batch,
        "relabel.crop_scale": (1.0, 1.0) if config.data.image_size < SMALL_BELOW_PX else (0.5, 1.0),
        "evaluate.lr": rates.pop(),
        "evaluate.cosine_stretch": 2.0,
    }


def _rded_rate(student: str) -> float:
    rates = {"efficientnet": 2e-3, "mobilenet_v2": 2.5e-3, "vgg11": 5e-4, "vit": 1e-4, "swin": 1e-4, "alexnet": 1e-4}
    return next((rate for name, rate in rates.items() if name in student), 1e-3)


def _by_batch(config: DistillConfig, batch: int, stretch: dict[int, float], **more: Any) -> dict[str, Any]:
    return {
        "relabel.batch_size": batch,
        "relabel.bn": "batch",
        "relabel.micro_batch": batch // 2,
        "evaluate.accumulate": 2,
        "evaluate.cosine_stretch": _nearest(stretch, config.barycenter.ipc),
        **more,
    }


def _sre2l(config: DistillConfig) -> dict[str, Any]:
    if _is_cifar(config):
        return {"relabel.epochs": 400, "relabel.batch_size": 128, "relabel.crop_scale": (1.0, 1.0)}
    return {"relabel.batch_size": 1024, "evaluate.accumulate": 2}


def _cvdd(config: DistillConfig) -> dict[str, Any]:
    return _by_batch(config, 10 if config.recipe == "imagenette" else 16, {1: 2.0, 10: 2.0, 50: 1.0})


def _fadrm(config: DistillConfig) -> dict[str, Any]:
    few, nette = _classes(config) == 10, config.recipe == "imagenette"
    stretch = {1: 2.0, 10: 1.0, 50: 2.0} if nette else {1: 2.0, 10: 2.0, 50: 1.0}
    more: dict[str, Any] = {
        "evaluate.lr": 5e-4 if nette else 1e-3,
        "relabel.epochs": 1000 if _is_cifar(config) else 300,
    }
    if config.recipe.startswith("tiny") and _nearest({1: 1, 10: 10, 50: 50}, config.barycenter.ipc) == 50:
        more |= {"relabel.bn": "running", "relabel.micro_batch": 0}
    return _by_batch(config, 10 if few else 16, stretch, **more)


_SGD = {"evaluate.optimizer": "sgd", "evaluate.lr": 0.1, "evaluate.weight_decay": 5e-4}


def _edc(config: DistillConfig) -> dict[str, Any]:
    base = {
        "relabel.crop_scale": (0.5, 1.0),
        "evaluate.loss": "mse",
        "evaluate.ce_weight": 0.025,
        "evaluate.cosine_stretch": 2.0,
        "evaluate.ema": 0.99,
    }
    if config.recipe.startswith("tiny"):
        return {**base, **_SGD, "evaluate.momentum": 0.875}
    if _classes(config) == 1000:
        return base
    if not _is_cifar(config):
        return {**base, "relabel.epochs": 1000, "relabel.batch_size": 50}
    if _classes(config) == 100:
        return {**base, **_SGD, "relabel.epochs": 1000, "relabel.batch_size": 50}
    few = {"relabel.epochs": 1000, "relabel.batch_size": 10, "relabel.crop_scale": (0.08, 1.0)}
    return {**base, **few, "evaluate.schedule": "steps", "evaluate.cosine_stretch": 1.0}


_PROTOCOLS: dict[str, tuple[str, Callable[[DistillConfig], dict[str, Any]]]] = {
    "wmdd": ("300 epochs of batches of 100, stored labels, cosine to 0", lambda config: {}),
    "sre2l": (
        "batches of 1,024 in two parts; few steps, so low scores (CIFAR: 400 epochs of 128 whole images)",
        _sre2l,
    ),
    "cda": ("batches of 128", lambda config: {"relabel.batch_size": 128}),
    "rded": ("batches and rates by size and student, cosine to half; no patches to shuffle here", _rded),
    "edc": (
        "distance of logits, a little cross-entropy, an average; cosine to half (the code falls through to a line); "
        "epochs, batches and optimiser by set",
        _edc,
    ),
    "cvdd": (
        "batches of 16 (ImageNette: 10), labels by the batch's own statistics in two parts",
        _cvdd,
    ),
    "fadrm": ("as cvdd, batches of 10 for ten classes, 1,000 epochs for CIFAR", _fadrm),
    "hard": (
        "class names alone: cross-entropy on random crops, no teacher",
        lambda config: {"evaluate.labels": "hard", "relabel.mix": "none"},
    ),
}


def with_protocol(config: DistillConfig, name: str) -> DistillConfig:
    """Give a recipe with a protocol's settings; those that depend on images per class take the recipe's number.

    Raises:
        ConfigError: for an unknown name (lists the known ones), or students that it cannot train side by side.
    """
    if name not in _PROTOCOLS:
        raise ConfigError(f"protocol {name}: there is none of this name; choose from {', '.join(_PROTOCOLS)}")
    return override(config, {"evaluate.protocol": name, **_COMMON, **_PROTOCOLS[name][1](config)})


def is_exact(config: DistillConfig) -> bool:
    """Tell whether a configuration's settings are those of the protocol that it names."""
    try:
        named = with_protocol(config, config.evaluate.protocol)
    except ConfigError:
        return False
    relaxed = {"evaluate.val_every": config.evaluate.val_every}
    return override(named, relaxed) == config


def protocols() -> dict[str, str]:
    """List the names of all protocols, each with one line about it."""
    return {name: about for name, (about, _) in _PROTOCOLS.items()}


assert set(_PROTOCOLS) == set(typing.get_args(Protocol))
