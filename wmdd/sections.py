"""The sections of a run's configuration, one for each stage: every option with its default, range and meaning.

Defaults are the published method's values; `wmdd.recipes` holds complete configurations for named data sets.
Every field says in one line what it means; the command line prints these lines as its help.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _rises(scale: tuple[float, float]) -> tuple[float, float]:
    if scale[0] > scale[1]:
        raise ValueError(f"the low end must not be above the high end; try {scale[1]},{scale[0]}")
    return scale


Scale = Annotated[tuple[Fraction, Fraction], AfterValidator(_rises)]
SMALL_BELOW_PX = 100  # smaller images keep their size in the first layers
Stem = Literal["auto", "standard", "small", "stride2"]
Subset = Literal["imagenette", "imagewoof", "imagemeow", "imagesquawk", "imagefruit", "imageyellow"]
Augment = Literal[
    "none",
    "randaugment",
    "trivialaugment",
    "augmix",
    "autoaugment-imagenet",
    "autoaugment-cifar10",
    "autoaugment-svhn",
]
Protocol = Literal["wmdd", "sre2l", "cda", "rded", "edc", "cvdd", "fadrm", "hard"]
Method = Literal["wmdd", "wmdd-paper-loss", "sre2l", "cda", "random", "herding"]


_LATER: dict[str, Any] = {"later": True}


def later(default: Any, **facts: Any) -> Any:
    """Declare an option that its section did not have from the first: at its default it is no part of keys.

    So what earlier versions made stays found. Its default must therefore never change.
    """
    return Field(default, json_schema_extra=_LATER, **facts)


class Section(BaseModel):
    """A frozen part of the configuration that knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def for_key(self, exclude: Container[str] = ()) -> dict[str, Any]:
        """Give the plain values that belong to keys of the store."""
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if name not in exclude and not self._is_silent(name)
        }

    def _is_silent(self, name: str) -> bool:
        field = type(self).model_fields[name]
        return field.json_schema_extra == _LATER and getattr(self, name) == field.default


class DataConfig(Section):
    """Which real images, and how they become tensors."""

    path: str | None = Field(None, description="image folder, Parquet, torchvision:NAME, or builtin:digits")
    classes: tuple[str, ...] | None = Field(None, description="keep only these classes, in this order")
    subset: Subset | None = later(None, description="named classes of a full ImageNet-1K tree")

    @field_validator("subset")
    @classmethod
    def _names_the_classes_alone(cls, subset: str | None, info: ValidationInfo) -> str | None:
        if subset is not None and info.data.get("classes"):
            raise ValueError("names the classes, as data.classes does; give one of them")
        return subset

    download: bool = later(False, description="let torchvision fetch a set that path names as torchvision:NAME")
    image_size: Annotated[int, Field(ge=8)] = Field(224, description="height and width of the distilled images, px")
    crop_ratio: Fraction = Field(0.875, description="centre crop over resized shorter side (1 keeps the whole image)")
    normalization: Literal["imagenet", "cifar10", "cifar100", "tiny-imagenet", "half"] = Field(
        "imagenet", description="channel means and deviations that networks see"
    )
    val_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.2, description="share of each class held out when the set has no validation split"
    )
    holdout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of each class's training images that are scored on, in place of the validation images"
    )


class PretrainConfig(Section):
    """The teacher: trained here, or loaded from `weights`."""

    model: str = Field("resnet18", description="convnetD, or a torchvision or timm classifier, with batch-norm")
    stem: Stem = Field("auto", description="first layers: auto takes small below 100 px, else standard")
    weights: str | None = Field(
        None,
        description="load instead of training: a .safetensors or .pth file, or published ones: default, IMAGENET1K_V1",
    )
    epochs: Count = Field(50, description="passes over the real training images")
    batch_size: Count = Field(32, description="images per step")
    optimizer: Literal["sgd", "adamw", "rmsprop"] = Field("sgd", description="update rule")
    lr: Positive = Field(0.025, description="peak learning rate")
    schedule: Literal["cosine", "steps", "exponential"] = later(
        "cosine",
        description="of the learning rate (steps: times lr_gamma every lr_step_epochs; exponential: every epoch)",
    )
    lr_min: NonNegative = later(0.0, description="at the end of the cosine")
    lr_step_epochs: Count = later(30, description="epochs between the steps of schedule=steps")
    lr_gamma: Fraction = later(0.1, description="factor of steps and exponential")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of SGD")
    nesterov: bool = Field(False, description="Nesterov momentum")
    weight_decay: NonNegative = Field(1e-4, description="L2 penalty")
    norm_weight_decay: NonNegative | None = later(
        None, description="of normalisation layers (none: sgd and rmsprop as of all, adamw 0)"
    )
    bias_weight_decay: NonNegative | None = later(None, description="of other layers' biases (none: likewise)")
    warmup_epochs: NonNegative = Field(0.0, description="linear warm-up, epochs")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="of the cross-entropy")
    crop_scale: Scale = Field((0.08, 1.0), description="area of random resized crops, low and high")
    pad_px: Annotated[int, Field(ge=0)] = Field(0, description="random shift up to this, px, instead of resized crops")
    flip: bool = Field(True, description="random horizontal flips")
    augment: Augment = later("none", description="further random changes of each view, by torchvision")
    augment_strength: Annotated[int, Field(ge=0, le=30)] = later(
        0, description="magnitude of randaugment, to 30, or severity of augmix, to 10 (0: torchvision's 9 and 3)"
    )
    mix: Literal["none", "mixup", "cutmix", "either"] = later(
        "none", description="mix the images and labels of a batch (either: one of the two, drawn for each batch)"
    )
    mix_alpha: Positive = later(1.0, description="of the Beta distribution of the mixture")
    erase: Annotated[float, Field(ge=0.0, le=1.0)] = later(0.0, description="chance that a part of a view is erased")
    repeats: Count = later(1, description="views of an image in one epoch, of as many fewer images")
    clip_norm: NonNegative = later(0.0, description="longest gradient (0: any)")
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = later(
        0.0, description="the teacher is a running average of its weights, with this decay for each step (0: none)"
    )
    ema_every: Count = later(1, description="steps between the updates of that average")
    keep: Literal["last", "best"] = later(
        "last", description="weights of the last epoch, or of the epoch that was best on the validation images"
    )
    workers: Count = Field(
        1, description="workers on Ray that train together; part of the key, for each normalises its part of a batch"
    )
    sync_bn: bool = later(False, description="workers that train together share their batch-norm statistics; on GPUs")

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


class StatisticsConfig(Section):
    """One pass over each class: features and batch-norm moments."""

    batch_size: Count = Field(100, description="images per forward pass (changes rounding only)")
    views: Literal["whole", "random"] = later(
        "whole",
        description="of the real images: as in validation, or one random view of each, as recovery shows images",
    )
    crop_scale: Scale = later((0.08, 1.0), description="area of these random views, low and high")
    flip: bool = later(True, description="random horizontal flips of these views")


class BarycenterConfig(Section):
    """The Wasserstein barycenter of each class's features."""

    ipc: Count = Field(10, description="distilled images per class")
    weights: Literal["uniform", "learnt"] = Field("uniform", description="mass of the atoms")
    init: Literal["kmeans++", "random"] = Field("kmeans++", description="first atoms, from the class's own features")
    max_iterations: Count = Field(100, description="alternations of plan and positions at most")
    tolerance: NonNegative = Field(1e-7, description="relative fall of the objective that ends the search")


class RecoverConfig(Section):
    """Optimise images whose features match the barycenter and whose statistics match the class."""

    init: Literal["noise", "nearest", "random"] = Field(
        "noise", description="start from noise, real images nearest to the atoms, or random real images"
    )
    iterations: Annotated[int, Field(ge=0)] = Field(2000, description="optimisation steps (0 keeps the start)")
    lr: Positive = Field(0.25, description="peak learning rate of the pixels, cosine to 0")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.5, 0.9), description="of Adam"
    )
    feature_loss: Literal["rms", "squared"] = Field(
        "rms",
        description="rms: root mean squared distance to the atoms (released code); squared: the paper's formula",
    )
    feature_weight: NonNegative = Field(10.0, description="of the feature term (10: the released code at 100 images)")
    bn_weight: NonNegative = Field(10.0, description="of the batch-norm term, lambda in the paper")
    bn_weight_scale: Literal["absolute", "relative"] = Field(
        "absolute", description="relative: each layer's distances are in units of the class's own statistics"
    )
    first_bn_multiplier: NonNegative = Field(1.0, description="extra weight of the first batch-norm layer")
    ce_weight: NonNegative = Field(1.0, description="of the cross-entropy term")
    crop_scale: Scale = Field((0.08, 1.0), description="area of the random view of each step, low and high")
    flip: bool = Field(True, description="random horizontal flips of the view")
    roll_px: Annotated[int, Field(ge=0)] = Field(32, description="random cyclic shift of the view up to this, px")
    classes_per_batch: Annotated[int, Field(ge=0)] = Field(
        0, description="classes that share one tensor batch, part of the key (0: as many as make 100 images)"
    )
    bn_target: Literal["class", "global"] = later(
        "class", description="statistics to match: of each class's real images, or the teacher's own over all classes"
    )
    tv_weight: NonNegative = later(0.0, description="of the total-variation prior")
    l2_weight: NonNegative = later(0.0, description="of the L2 prior")
    curriculum: Literal["none", "step", "linear", "cosine"] = later(
        "none", description="views begin with whole images, and the least area falls to crop_scale's (CDA)"
    )
    curriculum_share: Fraction = later(1.0, description="share of the iterations in which it falls")

    @field_validator("curriculum_share")
    @classmethod
    def _falls(cls, share: float, info: ValidationInfo) -> float:
        if share == 1 and info.data.get("curriculum") == "step":
            raise ValueError("with recover.curriculum=step all views would be whole images; give a share below 1")
        if share < 1 and info.data.get("curriculum") == "none":
            raise ValueError(
                "nothing falls with recover.curriculum=none; choose step, linear or cosine, or leave it out"
            )
        return share


class RelabelConfig(Section):
    """Soft labels: the teacher's logits of stored views (fast knowledge distillation)."""

    epochs: Count = Field(300, description="epochs of stored views, which are the student's epochs")
    batch_size: Count = Field(100, description="images per stored label batch, at most the whole set")
    crop_scale: Scale = Field((0.08, 1.0), description="area of random resized crops, low and high")
    flip: bool = Field(True, description="random horizontal flips")
    mix: Literal["cutmix", "mixup", "none"] = Field(
        "cutmix", description="mix the images of a batch: one permutation, and one box or one share"
    )
    mix_alpha: Positive = Field(1.0, description="of the Beta distribution of the mixed area or share")
    bn: Literal["running", "batch"] = Field("running", description="teacher's batch-norm: running, or the view batch's")
    epochs_per_block: Count = Field(50, description="epochs in one unit of work")
    micro_batch: Annotated[int, Field(ge=0)] = later(
        0, description="images that share the teacher's batch-norm statistics with bn=batch (0: the whole batch)"
    )
    augment: Augment = later("none", description="further random changes of each image before its stored view")

    @field_validator("micro_batch")
    @classmethod
    def _is_used(cls, micro_batch: int, info: ValidationInfo) -> int:
        if micro_batch and info.data.get("bn", "batch") == "running":
            raise ValueError("the running statistics (relabel.bn) know no parts of a batch; set it to 0")
        if micro_batch > info.data.get("batch_size", micro_batch):
            raise ValueError(f"is larger than relabel.batch_size={info.data['batch_size']}; lower it")
        return micro_batch


def _rate(text: str) -> tuple[str, float, float | None]:
    """Read NAME=LR or NAME=LR:STRETCH."""
    name, _, numbers = text.partition("=")
    try:
        lr, *stretch = [float(number) for number in numbers.split(":")]
    except ValueError:
        lr, stretch = 0.0, []
    if not (name and 0 < lr < math.inf and len(stretch) < 2 and all(1 <= part < math.inf for part in stretch)):
        raise ValueError(f"{text}: write NAME=LR or NAME=LR:STRETCH, with LR above 0 and STRETCH 1 or more")
    return name, lr, stretch[0] if stretch else None


class EvaluateConfig(Section):
    """Students trained on the distilled images and their soft labels, scored on real validation images."""

    students: tuple[str, ...] = Field(("resnet18",), min_length=1, description="networks to train, with any norm")
    stem: Stem = Field("auto", description="first layers of the students, as pretrain.stem")
    seeds: Count = Field(3, description="students of each network")
    lr: Positive = Field(1e-3, description="peak learning rate")
    weight_decay: NonNegative = Field(0.01, description="on weights of two or more dimensions")
    temperature: Positive = Field(20.0, description="of teacher's and student's softmax")
    cosine_stretch: Annotated[float, Field(ge=1.0)] = Field(1.0, description="cosine ends at 0 after epochs x this")
    val_every: Count = Field(10, description="epochs between validations (the last epoch always counts)")
    val_batch_size: Count = Field(250, description="images per validation step")
    protocol: Protocol = later("wmdd", description="named settings that these are, or began as; see wmdd protocols")
    labels: Literal["soft", "hard"] = later("soft", description="the teacher's stored logits, or class names alone")
    loss: Literal["kl", "mse"] = later("kl", description="from soft labels: divergence at temperature, or of logits")
    ce_weight: NonNegative = later(0.0, description="of a cross-entropy with the class beside the soft labels")
    augment: Augment = later(
        "none", description="further random changes of each view with hard labels (soft: relabel.augment)"
    )
    optimizer: Literal["adamw", "sgd"] = later("adamw", description="update rule (sgd: with momentum, Nesterov off)")
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = later(0.9, description="of sgd")
    schedule: Literal["cosine", "linear", "steps", "tail"] = later(
        "cosine",
        description="of the learning rate (linear: to 0; steps: halved at 80, 90, 95 %; tail: to 0 in the last sixth)",
    )
    accumulate: Count = later(1, description="parts of a batch whose gradients are added up before a step")
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = later(
        0.0, description="also score a running average of the student's weights, with this decay (0: none)"
    )
    rates: tuple[str, ...] = later(
        (), description="students with an lr of their own: NAME=LR, or NAME=LR:STRETCH with the cosine's stretch too"
    )

    @field_validator("students")
    @classmethod
    def _differ(cls, students: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name in students if students.count(name) > 1]
        if twice:
            raise ValueError(f"names {twice[0]} twice; leave one out (more students of it: evaluate.seeds)")
        return students

    @field_validator("rates")
    @classmethod
    def _name_students(cls, rates: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for rate in rates:
            student, _, _ = _rate(rate)
            if student not in info.data.get("students", (student,)):
                raise ValueError(
                    f"{student} is none of evaluate.students={','.join(info.data['students'])}; leave it out"
                )
        return rates

    def of(self, student: str) -> EvaluateConfig:
        """Give the section as it is for one student: with its own learning rate and stretch."""
        for rate in self.rates:
            name, lr, stretch = _rate(rate)
            if name == student:
                own = {"lr": lr, "cosine_stretch": stretch or self.cosine_stretch}
                return self.model_copy(update={**own, "rates": ()})
        return self.model_copy(update={"rates": ()})

    @field_validator("augment")
    @classmethod
    def _has_views_of_its_own(cls, augment: str, info: ValidationInfo) -> str:
        if augment != "none" and info.data.get("labels") == "soft":
            raise ValueError("soft labels belong to the stored views; set relabel.augment, and this to none")
        return augment

    random_real: bool = Field(True, description="also train on as many random real images, one draw per seed")
    full_data: bool = Field(True, description="train other students on all real images too, as the teacher was")


class RuntimeConfig(Section):
    """How workers compute. Not part of any key, except through the numbers that a device gives."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of networks; losses and moments are fp32 (auto: bf16 where the chip has it)"
    )
    compile: Literal["auto", "on", "off"] = Field("auto", description="torch.compile of long loops (auto: on GPUs)")
    threads: Count = Field(1, description="CPU threads of one worker; fixed, because it changes rounding")
    train_threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads of the teacher's training (0: all)")
    memory_gib: NonNegative = Field(2.0, description="real images are kept decoded when they fit in this, GiB")
    loaders: Annotated[int, Field(ge=0)] = Field(
        0, description="processes that decode images that do not fit (0: none)"
    )


class RayConfig(Section):
    """The Ray executor's pool."""

    address: str | None = Field(None, description="cluster to join: auto or HOST:6379 (none: a Ray of this run alone)")
    actors: Annotated[int, Field(ge=0)] = Field(0, description="workers (0: as many as fit, also when nodes join)")
    cpus_per_actor: Positive = Field(1.0, description="CPUs that one worker reserves")
    gpus_per_actor: NonNegative = Field(1.0, description="GPUs that one worker reserves where the cluster has any")
    attempts: Count = Field(3, description="times that a task is tried when its worker dies or hangs")
    silence_s: Positive = Field(1800.0, description="without news for this long, a task is given to another worker, s")
    speculate: NonNegative = Field(
        4.0, description="idle workers run a second copy of tasks slower than this many medians (0: never)"
    )
    start_timeout_s: Positive = Field(
        45.0,
        description="how long to wait for a worker where no node can hold one, s (raise it where nodes come on demand)",
    )
