"""How students are trained and scored, by the names of the papers whose numbers are to be compared with.

A protocol sets every option that decides a student's score: those of ``relabel`` and ``evaluate``. Where a published
code does something else than its paper says, the paper is followed, and the line below says so. Scores carry the
protocol's name and a hash of all these options, so that a changed protocol is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from wmdd.config.base import SMALL_BELOW_PX

if TYPE_CHECKING:
    from wmdd.config.distill import DistillConfig

# The settings of networks for ImageNet-1K; a protocol names those that differ for other sets.
COMMON: dict[str, Any] = {
    "relabel.epochs": 300,
    "relabel.batch_size": 100,
    "relabel.crop_scale": (0.08, 1.0),
    "relabel.flip": True,
    "relabel.mix": "cutmix",
    "relabel.mix_alpha": 1.0,
    "relabel.bn_mode": "running",
    "relabel.micro_batch": 0,
    "relabel.augment": "none",
    "evaluate.labels": "soft",
    "evaluate.loss": "kl",
    "evaluate.ce_weight": 0.0,
    "evaluate.augment": "none",
    "evaluate.temperature": 20.0,
    "evaluate.temperature_decay": 1.0,
    "evaluate.temperature_every": 30,
    "evaluate.temperature_floor": 2.0,
    "evaluate.temperature_squared": False,
    "evaluate.student_temperature": "same",
    "evaluate.student_temperature_lr": 0.01,
    "evaluate.optimizer": "adamw",
    "evaluate.muon_lr": 0.02,
    "evaluate.momentum": 0.9,
    "evaluate.lr": 1e-3,
    "evaluate.rates": (),
    "evaluate.weight_decay": 0.01,
    "evaluate.schedule": "cosine",
    "evaluate.cosine_stretch": 1.0,
    "evaluate.accumulate": 1,
    "evaluate.ema": 0.0,
    "evaluate.val_every": 10,
}


_SETS = {
    "cifar10-quick": "cifar10",
    "tiny-imagenet-224": "tiny-imagenet",
    "torchvision:CIFAR10": "cifar10",
    "torchvision:CIFAR100": "cifar100",
    "torchvision:Imagenette": "imagenette",
    "torchvision:ImageNet": "imagenet-1k",
}
_CLASSES = {"cifar100": 100, "tiny-imagenet": 200, "imagenet-1k": 1000}
_STUDENTS = ("resnet18", "resnet50", "resnet101")  # all others train as ResNet-18


def _set_of(config: DistillConfig) -> str:
    """Return the set whose settings a protocol takes: ``data.subset``, torchvision's name, or the recipe's."""
    if config.data.subset:
        return str(config.data.subset)
    path = (config.data.path or "").partition("?")[0]
    name = path if path in _SETS else config.recipe.removesuffix("-debug")
    return _SETS.get(name, name)


def _num_classes(config: DistillConfig) -> int:
    """Return how many classes a set has that is not read yet: those that are named, a known set's number, or ten."""
    return len(config.data.classes or ()) or _CLASSES.get(_set_of(config), 10)


def _nearest(by_ipc: dict[int, Any], ipc: int) -> Any:
    return by_ipc[min(by_ipc, key=lambda known: abs(known - ipc))]


def _by_student(config: DistillConfig, of: Callable[[str], tuple[float, float]]) -> dict[str, Any]:
    """Return every student's learning rate and stretch of the cosine; the first one's are the section's."""
    first, *others = config.evaluate.students
    lr, stretch = of(first)
    apart = [name for name in dict.fromkeys(others) if of(name) != (lr, stretch)]
    rates = tuple(f"{name}={of(name)[0]:g}:{of(name)[1]:g}" for name in apart)
    return {"evaluate.lr": lr, "evaluate.cosine_stretch": stretch, "evaluate.rates": rates}


def _rded(config: DistillConfig) -> dict[str, Any]:
    name = _set_of(config)
    batch = 100 if name == "tiny-imagenet" else _nearest({1: 10, 10: 50, 50: 100}, config.ipc)
    return {
        "relabel.batch_size": batch * 2 if name in ("cifar100", "imagenet-1k") else batch,
        "relabel.crop_scale": (1.0, 1.0) if config.data.image_size < SMALL_BELOW_PX else (0.5, 1.0),
        **_by_student(config, _rded_rate),
    }


def _rded_rate(student: str) -> tuple[float, float]:
    rates = {"efficientnet": 2e-3, "mobilenet_v2": 2.5e-3, "vgg11": 5e-4, "vit": 1e-4, "swin": 1e-4, "alexnet": 1e-4}
    return next((rate for name, rate in rates.items() if name in student), 1e-3), 2.0


# SRe2L's code for CIFAR-100 (its crops are shifts by up to 4 px); CDA takes it for twice as long.
_CIFAR = {
    "relabel.epochs": 400,
    "relabel.batch_size": 128,
    "relabel.crop_scale": (1.0, 1.0),
    "relabel.mix": "mixup",
    "relabel.mix_alpha": 0.8,
    "evaluate.temperature": 30.0,
}


def _sre2l(config: DistillConfig) -> dict[str, Any]:
    return _CIFAR if _set_of(config).startswith("cifar") else {"relabel.batch_size": 1024, "evaluate.accumulate": 2}


def _cda(config: DistillConfig) -> dict[str, Any]:
    return {**_CIFAR, "relabel.epochs": 800} if _set_of(config).startswith("cifar") else {"relabel.batch_size": 128}


# Learning rate x stretch of the cosine at 1, 10 and 50 images per class for ResNet-18, -50 and -101, by set, as in the
# code of the two papers; sets that are not named train as "others" does.
_CVDD = {
    "cifar10": ("1e-3x1 1e-3x1 1e-3x1", "1e-3x1 1e-3x1 1e-3x1", "5e-4x1 5e-4x1 5e-4x1"),
    "cifar100": ("1e-3x1 1e-3x2 1e-3x1", "1e-3x1 1e-3x2 1e-3x1", "5e-4x1 5e-4x1 5e-4x1"),
    "tiny-imagenet": ("1e-3x2 1e-3x1 1e-3x2", "1e-3x1 1e-3x1 1e-3x1", "5e-4x2 5e-4x2 5e-4x2"),
    "imagenet-1k": ("1e-3x2 1e-3x2 1e-3x1", "1e-3x2 1e-3x2 1e-3x1", "1e-3x2 1e-3x2 5e-4x2"),
    "others": ("5e-4x2 5e-4x1 5e-4x2", "5e-4x2 1e-3x1 5e-4x1", "5e-4x2 5e-4x2 1e-3x2"),
}
_FADRM = {
    "cifar100": ("5e-4x2 1e-3x2 1e-3x1", "1e-3x1 1e-3x2 1e-3x1", "5e-4x1 5e-4x1 5e-4x1"),
    "tiny-imagenet": ("1e-3x2 1e-3x2 1e-3x1", "5e-4x2 5e-4x2 5e-4x1", "5e-4x2 5e-4x2 5e-4x1"),
    "imagewoof": ("5e-4x2 5e-4x1 1e-3x2", "5e-4x2 5e-3x1 5e-4x1", "1e-3x1 5e-4x2 5e-4x1"),
    "imagenet-1k": ("1e-3x2 1e-3x2 1e-3x1", "5e-4x2 1e-3x2 1e-3x1", "3.5e-3x2 1e-3x2 5e-4x1"),
    "others": ("5e-4x2 5e-4x1 5e-4x2", "5e-4x2 5e-4x1 5e-4x1", "5e-4x2 5e-4x2 1e-3x2"),
}


def _by_batch(config: DistillConfig, table: Mapping[str, tuple[str, ...]], batch: int) -> dict[str, Any]:
    """Return settings with labels by the batch's own statistics in two parts, as the student's batches have two."""
    by_student = dict(zip(_STUDENTS, table.get(_set_of(config), table["others"]), strict=True))

    def rate(student: str) -> tuple[float, float]:
        by_ipc = dict(zip((1, 10, 50), by_student.get(student, by_student["resnet18"]).split(), strict=True))
        lr, _, stretch = _nearest(by_ipc, config.ipc).partition("x")
        return float(lr), float(stretch)

    return {
        "relabel.batch_size": batch,
        "relabel.bn_mode": "batch",
        "relabel.micro_batch": batch // 2,
        "evaluate.accumulate": 2,
        **_by_student(config, rate),
    }


def _cvdd(config: DistillConfig) -> dict[str, Any]:
    return _by_batch(config, _CVDD, 10 if _set_of(config) == "imagenette" else 16)


def _fadrm(config: DistillConfig) -> dict[str, Any]:
    name = _set_of(config)
    ipc = _nearest({1: 1, 10: 10, 50: 50}, config.ipc)
    table = _FADRM | {"cifar10": _FADRM["cifar100"]}  # CIFAR-10 is not in the code
    settings = _by_batch(config, table, 16 if name in _CLASSES else 10)
    if name.startswith("cifar") or (name, ipc) == ("tiny-imagenet", 1):
        settings["relabel.epochs"] = 1000
    if (name, ipc) == ("tiny-imagenet", 50):
        settings |= {"relabel.bn_mode": "running", "relabel.micro_batch": 0}
    return settings


_SGD = {"evaluate.optimizer": "sgd", "evaluate.lr": 0.1, "evaluate.weight_decay": 5e-4, "evaluate.momentum": 0.875}


def _edc(config: DistillConfig) -> dict[str, Any]:
    base = {
        "relabel.crop_scale": (0.5, 1.0),
        "evaluate.loss": "mse",
        "evaluate.ce_weight": 0.025,
        "evaluate.cosine_stretch": 2.0,
        "evaluate.ema": 0.99,
    }
    small = {**base, "relabel.augment": "randaugment"}
    long = {**small, "relabel.epochs": 1000, "relabel.batch_size": 50, "evaluate.schedule": "tail"}
    match _set_of(config):
        case "tiny-imagenet":
            return {**small, **_SGD}
        case "imagenet-1k":
            return base
        case "cifar100":
            return {**long, **_SGD}
        case "cifar10":
            few = {"relabel.epochs": 1000, "relabel.batch_size": 10, "relabel.crop_scale": (0.08, 1.0)}
            return {**small, **few, "evaluate.schedule": "steps", "evaluate.cosine_stretch": 1.0}
    return long


# Adam is AdamW without decay.
_RD3 = {"relabel.epochs": 400, "relabel.batch_size": 50, "evaluate.weight_decay": 0.0}


def _bps(config: DistillConfig) -> dict[str, Any]:
    return {
        "relabel.epochs": 500,
        "relabel.batch_size": _nearest({1: 16, 10: 16, 50: 32}, config.ipc),
        "relabel.crop_scale": (0.1 if _set_of(config).startswith("cifar") else 0.2, 1.0),
        "evaluate.temperature_squared": True,
        "evaluate.cosine_stretch": 2.0,
    }


def _cim(config: DistillConfig) -> dict[str, Any]:
    num_images = config.ipc * _num_classes(config)
    batches = ((10, 10), (100, 50), (500, 100))  # by the largest set that has them
    return {
        "relabel.epochs": 1000,
        "relabel.batch_size": next((batch for largest, batch in batches if num_images <= largest), 200),
        "evaluate.loss": "mse",
        "evaluate.schedule": "fifths",
    }


PROTOCOLS: dict[str, tuple[str, Callable[[DistillConfig], dict[str, Any]]]] = {
    "wmdd": ("300 epochs of batches of 100, stored labels, cosine to 0", lambda config: {}),
    "sre2l": (
        "batches of 1,024 in two parts; few steps, so low scores (CIFAR: 400 epochs of 128, MixUp)",
        _sre2l,
    ),
    "cda": ("batches of 128 (CIFAR: as sre2l, for 800 epochs)", _cda),
    "rded": ("batches and rates by size and student, cosine to half; no patches to shuffle here", _rded),
    "edc": (
        "distance of logits, a little cross-entropy, an average; cosine to half (the code falls through to a line); "
        "epochs, batches, optimiser and schedule by set",
        _edc,
    ),
    "cvdd": (
        "batches of 16 (ImageNette: 10), labels by the batch's own statistics in two parts; rates by size and student",
        _cvdd,
    ),
    "fadrm": ("as cvdd with other rates, batches of 10 for ten classes, 1,000 epochs for CIFAR", _fadrm),
    "rd3": ("400 epochs of batches of 50, no decay", lambda config: _RD3),
    "bps": ("500 epochs of batches of 16 or 32, divergence by squared temperature, cosine to half", _bps),
    "cim": ("distance of logits, 1,000 epochs, batches by size of the set, a fifth of the rate at 2/3 and 5/6", _cim),
    "rethinkdc": ("batches of 128, as its benchmark on ImageNet-1K", lambda config: {"relabel.batch_size": 128}),
    "hard": (
        "class names alone: cross-entropy on random crops, no teacher",
        lambda config: {"evaluate.labels": "hard", "relabel.mix": "none"},
    ),
}

if TYPE_CHECKING:  # a type checker does not know the names in a table
    Protocol = str
else:
    Protocol = Literal[tuple(PROTOCOLS)]


def protocols() -> dict[str, str]:
    """List the names of all protocols, each with one line about it."""
    return {name: about for name, (about, _) in PROTOCOLS.items()}
