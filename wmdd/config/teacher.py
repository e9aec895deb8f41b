"""The real images, and the teacher that is trained on them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

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

    path: str | None = Field(None, description="image folder, Parquet, torchvision:NAME, or builtin:digits")
    classes: tuple[str, ...] | None = Field(None, description="keep only these classes, in this order")
    subset: Subset | None = Field(None, description="named classes of a full ImageNet-1K tree")

    @field_validator("path")
    @classmethod
    def _is_in_full(cls, path: str | None) -> str | None:
        return in_full(path)

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

    download: bool = Field(False, description="let torchvision fetch a set that path names as torchvision:NAME")
    image_size: Annotated[int, Field(ge=8)] = Field(224, description="height and width of the distilled images, px")
    crop_ratio: Fraction = Field(0.875, description="centre crop over resized shorter side (1 keeps the whole image)")
    exif_orientation: Literal["ignore", "apply"] = Field(
        "ignore", description="of photographs: read them as stored, as torchvision does, or turn them upright"
    )
    bits: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None, description="that grey images use whose files have more than 8: 12 of 16, say (none: all of them)"
    )
    normalization: Literal["imagenet", "cifar10", "cifar100", "tiny-imagenet", "half", "clip"] = Field(
        "imagenet", description="channel means and deviations that networks see"
    )
    val_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.2, description="share of each class held out when the set has no validation split"
    )
    holdout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of each class's training images that are scored on, in place of the validation images"
    )
    per_class: Annotated[int, Field(ge=0)] = Field(
        0, description="keep at most this number of images of each class, for training and for validation (0: all)"
    )

    def geometry(self) -> dict[str, Any]:
        """Return what decides how an image becomes a network's input."""
        return {name: getattr(self, name) for name in ("image_size", "crop_ratio", "normalization")}


class PretrainConfig(Section):
    """The teacher: trained here, or loaded from `weights`."""

    model: str = option(
        "resnet18", keyed=False, description="convnetD, or a torchvision or timm classifier, with batch-norm"
    )
    stem: Stem = option("auto", keyed=False, description="first layers: auto takes small below 100 px, else standard")
    checkpoint: str | None = option(
        None,
        keyed=False,
        description="load instead of training: a .safetensors or .pth file, or published ones: default, IMAGENET1K_V1",
    )
    epochs: Count = Field(50, description="passes over the real training images")
    batch_size: Count = Field(32, description="images per step")
    optimizer: Literal["sgd", "adamw", "rmsprop"] = Field("sgd", description="update rule")
    lr: Positive = Field(0.025, description="peak learning rate")
    schedule: Literal["cosine", "steps", "exponential"] = Field(
        "cosine",
        description="of the learning rate (steps: times lr_gamma every lr_step_epochs; exponential: every epoch)",
    )
    lr_min: NonNegative = Field(0.0, description="at the end of the cosine")
    lr_step_epochs: Count = Field(30, description="epochs between the steps of schedule=steps")
    lr_gamma: Fraction = Field(0.1, description="factor of steps and exponential")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of SGD and RMSprop")
    nesterov: bool = Field(False, description="Nesterov momentum, of SGD")
    weight_decay: NonNegative = Field(1e-4, description="L2 penalty")
    norm_weight_decay: NonNegative | None = Field(
        None, description="of normalisation layers (none: sgd and rmsprop as of all, adamw 0)"
    )
    bias_weight_decay: NonNegative | None = Field(None, description="of other layers' biases (none: likewise)")
    warmup_epochs: NonNegative = Field(0.0, description="linear warm-up, epochs")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="of the cross-entropy")
    crop_scale: Scale = Field((0.08, 1.0), description="area of random resized crops, low and high")
    pad_px: Annotated[int, Field(ge=0)] = Field(0, description="random shift up to this, px, instead of resized crops")
    flip: bool = Field(True, description="random horizontal flips")
    augment: Augment = Field("none", description="further random changes of each view, by torchvision")
    augment_strength: Annotated[int, Field(ge=0, le=30)] = Field(
        0, description="magnitude of randaugment, to 30, or severity of augmix, to 10 (0: torchvision's 9 and 3)"
    )
    mix: Literal["none", "mixup", "cutmix", "either"] = Field(
        "none", description="mix the images and labels of a batch (either: one of the two, drawn for each batch)"
    )
    mix_alpha: Positive = Field(1.0, description="of the Beta distribution of the mixture")
    erase: Annotated[float, Field(ge=0.0, le=1.0)] = Field(0.0, description="chance that a part of a view is erased")
    repeated_augmentation: Count = Field(1, description="views of an image in one epoch, of as many fewer images")
    clip_norm: NonNegative = Field(0.0, description="longest gradient (0: any)")
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="the teacher is a running average of its weights, with this decay for each step (0: none)"
    )
    ema_every: Count = Field(1, description="steps between the updates of that average")
    keep: Literal["last", "best"] = Field(
        "last", description="weights of the last epoch, or of the epoch that was best on the validation images"
    )
    workers: Count = Field(
        1, description="workers on Ray that train together; part of the key, for each normalises its part of a batch"
    )
    sync_bn: bool = Field(False, description="workers that train together share their batch-norm statistics; on GPUs")

    @field_validator("checkpoint")
    @classmethod
    def _is_in_full(cls, weights: str | None) -> str | None:
        return in_full(weights)

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
