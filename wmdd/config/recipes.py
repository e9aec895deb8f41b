"""Complete configurations for named data sets."""

from __future__ import annotations

from typing import Any

from wmdd.config.distill import DistillConfig, override
from wmdd.errors import ConfigError
from wmdd.text import unknown

# Best for every set and teacher that was tried; the released recipes keep the released code's weights.
_RELATIVE: dict[str, Any] = {"recover.bn_weight_scale": "relative", "recover.bn_weight": 100.0}

# AdamW at 0.001 and labels by running statistics, as in the released code, cost 9 and 5 points at 1 image per class
# (CIFAR-10, ConvNet-3), and 7 together on twenty classes of Tiny-ImageNet (docs/accuracy.md).
_TRAINING: dict[str, Any] = {
    "relabel.bn_mode": "batch",
    "evaluate.optimizer": "muon",
    "evaluate.lr": 3e-3,
}

_DIGITS: dict[str, Any] = {
    "data.path": "builtin:digits",
    "data.image_size": 16,
    "data.crop_ratio": 1.0,
    "data.normalization": "half",
    "pretrain.model": "convnet3_w64",
    "pretrain.epochs": 20,
    "pretrain.batch_size": 64,
    "pretrain.lr": 0.05,
    "pretrain.pad_px": 1,
    "pretrain.flip": False,
    "ipc": 1,
    "recover.init": "nearest",
    "recover.iterations": 500,
    "recover.lr": 0.1,
    **_RELATIVE,
    "recover.crop_scale": (0.3, 1.0),
    "recover.flip": False,
    "recover.roll_px": 1,
    "recover.classes_per_batch": 5,
    "relabel.epochs": 200,
    "relabel.flip": False,
    "evaluate.students": ("convnet3_w64",),
    "evaluate.num_students": 5,
    "evaluate.lr": 5e-3,
    "evaluate.val_every": 50,
}

_CIFAR10: dict[str, Any] = {
    "data.image_size": 32,
    "data.crop_ratio": 1.0,
    "data.normalization": "cifar10",
    "pretrain.model": "resnet18",
    "pretrain.epochs": 60,
    "pretrain.batch_size": 128,
    "pretrain.lr": 0.1,
    "pretrain.nesterov": True,
    "pretrain.weight_decay": 5e-4,
    "pretrain.warmup_epochs": 2.0,
    "pretrain.pad_px": 4,
    "ipc": 10,
    "recover.init": "nearest",
    "recover.lr": 0.05,
    **_RELATIVE,
    # From 0.5 scores are 0.6 points lower at 10 images per class and 0.7 higher at 1 (docs/accuracy.md).
    "recover.crop_scale": (0.25, 1.0),
    # Four tiles at 1 image per class: 6 to 9 points more with ConvNet-3, and 5 with ResNet-18 (students by AdamW).
    "recover.tiles": 0,
    "recover.roll_px": 4,
    "relabel.epochs": 1000,
    "relabel.batch_size": 20,
    "evaluate.val_every": 100,
    **_TRAINING,
}

_CIFAR100: dict[str, Any] = {
    **_CIFAR10,
    "data.normalization": "cifar100",
    "relabel.epochs": 400,
    "relabel.batch_size": 50,
    "evaluate.val_every": 40,
}

_QUICK: dict[str, Any] = {
    **_CIFAR10,
    "pretrain.model": "convnet3_w64",
    "pretrain.epochs": 10,
    "recover.iterations": 300,
    # With labels of views the pull towards the atoms costs 0.8 to 2.8 points (docs/accuracy.md). The atoms still choose
    # the real images that recovery starts from.
    "recover.feature_weight": 0.0,
    "recover.classes_per_batch": 5,
    "evaluate.students": ("convnet3_w64",),
    "evaluate.val_every": 250,
}

_TINY_64: dict[str, Any] = {
    "data.image_size": 64,
    "data.crop_ratio": 1.0,
    "data.normalization": "tiny-imagenet",
    "pretrain.batch_size": 128,
    "pretrain.lr": 0.1,
    "pretrain.nesterov": True,
    "pretrain.weight_decay": 5e-4,
    "recover.init": "nearest",
    "recover.lr": 0.05,
    **_RELATIVE,
    "recover.crop_scale": (0.5, 1.0),
    "recover.roll_px": 8,
    "relabel.batch_size": 50,
    **_TRAINING,
}

_TINY_224: dict[str, Any] = {
    "pretrain.stem": "stride2",
    "recover.bn_weight": 500.0,
    "recover.lr": 0.1,
    "evaluate.stem": "stride2",
}

_IMAGENET: dict[str, Any] = {
    "pretrain.checkpoint": "default",
    "recover.bn_weight": 100.0,
    "relabel.epochs_per_block": 5,
    "evaluate.full_data": False,
}

# Over any recipe, to see that all of it runs.
DEBUG: dict[str, Any] = {
    "data.per_class": 50,
    "ipc": 2,
    "pretrain.epochs": 2,
    "recover.iterations": 2,
    "relabel.epochs": 2,
    "relabel.epochs_per_block": 1,
    "evaluate.num_students": 2,
    "evaluate.val_every": 1,
}

QUICK_FRACTION = 5  # of the label epochs, whose scores are lower

_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "digits": ("scikit-learn's handwritten digits, in a minute on two cores; needs no data", _DIGITS),
    "cifar10": ("CIFAR-10 at 32 px, ResNet-18", _CIFAR10),
    "cifar10-quick": ("CIFAR-10 with ConvNet-3, small enough for CPUs", _QUICK),
    "cifar100": ("CIFAR-100 at 32 px, ResNet-18", _CIFAR100),
    "imagenette": ("ImageNette at 224 px, as released (bn_weight 10)", {}),
    "tiny-imagenet": ("Tiny-ImageNet at its own 64 px", _TINY_64),
    "tiny-imagenet-224": ("Tiny-ImageNet upsampled to 224 px, as released (bn_weight 500)", _TINY_224),
    "imagenet-1k": ("ImageNet-1K at 224 px, as released, from torchvision's teacher (bn_weight 100)", _IMAGENET),
}


def recipe(name: str) -> DistillConfig:
    """Return a named configuration; raise a `ConfigError` that lists the recipes for an unknown name."""
    if not isinstance(name, str) or name not in _RECIPES:
        raise ConfigError(unknown("recipe", name, _RECIPES))
    return override(DistillConfig(recipe=name), _RECIPES[name][1])


def quick_options(config: DistillConfig) -> dict[str, Any]:
    """Return the options of a first look: a fifth of the label epochs, and two students of each set at most."""
    return {
        "relabel.epochs": max(1, config.relabel.epochs // QUICK_FRACTION),
        "evaluate.val_every": max(1, config.evaluate.val_every // QUICK_FRACTION),
        "evaluate.num_students": min(2, config.evaluate.num_students),
    }


def as_config(config: object) -> DistillConfig:
    """Return the configuration that was given, or the recipe of that name; raise a `ConfigError` for anything else."""
    if isinstance(config, str):
        return recipe(config)
    if not isinstance(config, DistillConfig):
        given = f"config: is of type {type(config).__name__}"
        raise ConfigError(f"{given}; give a recipe's name, or a DistillConfig, as recipe() returns it")
    return config


def recipes() -> dict[str, str]:
    """List the names of all recipes, each with one line about it."""
    return {name: about for name, (about, _) in _RECIPES.items()}
