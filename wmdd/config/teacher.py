"""The real images, and the teacher that is trained on them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from wmdd.config.base import (
    Augment,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Scale,
    Section,
    Stem,
    Subset,
    in_full,
    option,
)


class DataConfig(Section):
    """Which real images, and how they become tensors."""

    path: str | None = option(None, "image folder, Parquet, torchvision:NAME, or builtin:digits")
    classes: tuple[str, ...] | None = option(None, "keep only these classes, in this order")
    subset: Subset | None = option(None, "named classes of a full ImageNet-1K tree")
    download: bool = option(False, "let torchvision fetch a set that path names as torchvision:NAME")
    image_size: int = option(224, "height and width of the distilled images, px", ge=8)
    crop_ratio: Fraction = option(0.875, "centre crop over resized shorter side (1 keeps the whole image)")
    exif_orientation: Literal["ignore", "apply"] = option(
        "ignore", "of photographs: read them as stored, as torchvision does, or turn them upright"
    )
    bits: int | None = option(
        None, "that grey images use whose files have more than 8: 12 of 16, say (none: all of them)", ge=1, le=32
    )
    normalization: Literal["imagenet", "cifar10", "cifar100", "tiny-imagenet", "half", "clip"] = option(
        "imagenet", "channel means and deviations that networks see"
    )
    val_fraction: float = option(0.2, "share of each class held out when the set has no validation split", ge=0, lt=1)
    holdout: float = option(
        0.0, "share of each class's training images that are scored on, in place of the validation images", ge=0, lt=1
    )
    per_class: int = option(
        0, "keep at most this number of images of each class, for training and for validation (0: all)", ge=0
    )

    _is_in_full = field_validator("path")(in_full)

    @field_validator("classes")
    @classmethod
    def _are_some(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None and "" in (classes or ("",)):
            raise ValueError("it holds no name, or an empty one; name classes, or none for all")
        return classes

    @field_validator("subset")
    @classmethod
    def _names_the_classes_alone(cls, subset: str | None, info: ValidationInfo) -> str | None:
        if subset is not None and info.data.get("classes"):
            raise ValueError("names the classes, as data.classes does; give one of them")
        return subset

    def geometry(self) -> dict[str, Any]:
        """Return what decides how an image becomes a network's input."""
        return {name: getattr(self, name) for name in ("image_size", "crop_ratio", "normalization")}


class PretrainConfig(Section):
    """The teacher: trained here, or loaded from `checkpoint`."""

    model: str = option("resnet18", "convnetD, or a torchvision or timm classifier, with batch-norm", keyed=False)
    stem: Stem = option("auto", "first layers: auto takes small below 100 px, else standard", keyed=False)
    checkpoint: str | None = option(
        None,
        "load instead of training: a .safetensors or .pth file, or published weights: default, IMAGENET1K_V1",
        keyed=False,
    )
    epochs: Count = option(50, "passes over the real training images")
    batch_size: Count = option(32, "images per step")
    optimizer: Literal["sgd", "adamw", "rmsprop"] = option("sgd", "update rule")
    lr: Positive = option(0.025, "peak learning rate")
    schedule: Literal["cosine", "steps", "exponential"] = option(
        "cosine", "of the learning rate (steps: times lr_gamma every lr_step_epochs; exponential: every epoch)"
    )
    lr_min: NonNegative = option(0.0, "at the end of the cosine")
    lr_step_epochs: Count = option(30, "epochs between the steps of schedule=steps")
    lr_gamma: Fraction = option(0.1, "factor of steps and exponential")
    momentum: float = option(0.9, "of SGD and RMSprop", ge=0, lt=1)
    nesterov: bool = option(False, "Nesterov momentum, of SGD")
    weight_decay: NonNegative = option(1e-4, "L2 penalty")
    norm_weight_decay: NonNegative | None = option(
        None, "of normalisation layers (none: sgd and rmsprop as of all, adamw 0)"
    )
    bias_weight_decay: NonNegative | None = option(None, "of other layers' biases (none: likewise)")
    warmup_epochs: NonNegative = option(0.0, "linear warm-up, epochs")
    label_smoothing: float = option(0.0, "of the cross-entropy", ge=0, lt=1)
    crop_scale: Scale = option((0.08, 1.0), "area of random resized crops, low and high")
    pad_px: int = option(0, "random shift up to this, px, instead of resized crops", ge=0)
    flip: bool = option(True, "random horizontal flips")
    augment: Augment = option("none", "further random changes of each view, by torchvision")
    augment_strength: int = option(
        0, "magnitude of randaugment, to 30, or severity of augmix, to 10 (0: torchvision's 9 and 3)", ge=0, le=30
    )
    mix: Literal["none", "mixup", "cutmix", "either"] = option(
        "none", "mix the images and labels of a batch (either: one of the two, drawn for each batch)"
    )
    mix_alpha: Positive = option(1.0, "of the Beta distribution of the mixture")
    erase: float = option(0.0, "chance that a part of a view is erased", ge=0, le=1)
    repeated_augmentation: Count = option(1, "views of an image in one epoch, of as many fewer images")
    clip_norm: NonNegative = option(0.0, "longest gradient (0: any)")
    ema: float = option(
        0.0, "the teacher is a running average of its weights, with this decay for each step (0: none)", ge=0, lt=1
    )
    ema_every: Count = option(1, "steps between the updates of that average")
    keep: Literal["last", "best"] = option(
        "last", "weights of the last epoch, or of the epoch that was best on the validation images"
    )
    decode: Literal["cpu", "gpu"] = option(
        "cpu", "device that decodes JPEG files of a set that is not kept in memory (gpu: other pixels)"
    )
    workers: Count = option(
        1, "workers on Ray that train together; part of the key, for each normalises its part of a batch"
    )
    sync_bn: bool = option(False, "workers that train together share their batch-norm statistics; on GPUs")

    _is_in_full = field_validator("checkpoint")(in_full)

    @field_validator("lr_step_epochs", "lr_gamma", "ema_every")
    @classmethod
    def _does_something(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        option, wanted = {
            "lr_step_epochs": ("schedule", ("steps",)),
            "lr_gamma": ("schedule", ("steps", "exponential")),
            "ema_every": ("ema", None),
        }[name]
        given = info.data.get(option)
        if value != cls.model_fields[name].default and not (given in wanted if wanted else given):
            raise ValueError(f"does nothing with pretrain.{option}={given}; leave it out, or change pretrain.{option}")
        return value

    @field_validator("augment_strength")
    @classmethod
    def _is_that_of(cls, strength: int, info: ValidationInfo) -> int:
        name = info.data.get("augment", "randaugment")
        if strength and name not in ("randaugment", "augmix"):
            raise ValueError(f"pretrain.augment={name} has no strength to set; leave it out")
        if strength > 10 and name == "augmix":
            raise ValueError("the severity of augmix ends at 10; lower it")
        return strength

    @field_validator("lr_min")
    @classmethod
    def _is_below_the_peak(cls, lr_min: float, info: ValidationInfo) -> float:
        if lr_min > info.data.get("lr", lr_min):
            raise ValueError(f"is above pretrain.lr={info.data['lr']:g}; lower it")
        if lr_min and info.data.get("schedule") != "cosine":
            raise ValueError("only a cosine ends at it; leave it out, or set pretrain.schedule to cosine")
        return lr_min

    @field_validator("workers")
    @classmethod
    def _have_two_images_each(cls, workers: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", 2 * workers)
        if workers > 1 and batch_size < 2 * workers:
            raise ValueError(
                f"a batch of pretrain.batch_size={batch_size} has fewer than two images for each, which batch-norm "
                "needs; raise pretrain.batch_size or lower pretrain.workers"
            )
        return workers

    @field_validator("sync_bn")
    @classmethod
    def _has_others(cls, sync_bn: bool, info: ValidationInfo) -> bool:
        if sync_bn and info.data.get("workers", 2) == 1:
            raise ValueError("one worker has nobody to share statistics with; raise pretrain.workers")
        return sync_bn
