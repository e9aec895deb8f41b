"""Soft labels, and the students that learn from them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import ValidationInfo, field_validator

from wmdd.config.base import Augment, Count, NonNegative, Positive, Scale, Section, Stem, option, refuse_twice
from wmdd.config.methods import Baseline
from wmdd.config.protocols import Protocol


class RelabelConfig(Section):
    """Soft labels: the teacher's logits of stored views (fast knowledge distillation)."""

    epochs: Count = option(300, "epochs of stored views, which are the student's epochs", keyed=False)
    batch_size: Count = option(100, "images per stored label batch, at most the whole set")
    crop_scale: Scale = option((0.08, 1.0), "area of random resized crops, low and high")
    flip: bool = option(True, "random horizontal flips")
    mix: Literal["cutmix", "mixup", "none"] = option(
        "cutmix", "mix the images of a batch: one permutation, and one box or one share"
    )
    mix_alpha: Positive = option(1.0, "of the Beta distribution of the mixed area or share")
    bn_mode: Literal["running", "batch"] = option("running", "teacher's batch-norm: running, or of the batch")
    epochs_per_block: Count = option(50, "epochs in one unit of work", keyed=False, protocol=False)
    micro_batch: int = option(
        0, "images that share the teacher's batch-norm statistics with bn_mode=batch (0: the whole batch)", ge=0
    )
    augment: Augment = option("none", "further random changes of each image before its stored view")
    teachers: tuple[str, ...] = option(
        (), "more networks, trained or loaded as the teacher was; the labels are the mean of all logits"
    )

    _differ = field_validator("teachers")(refuse_twice)

    @field_validator("micro_batch")
    @classmethod
    def _is_used(cls, micro_batch: int, info: ValidationInfo) -> int:
        if micro_batch and info.data.get("bn_mode", "batch") == "running":
            raise ValueError("the running statistics (relabel.bn_mode) know no parts of a batch; set it to 0")
        if micro_batch > info.data.get("batch_size", micro_batch):
            raise ValueError(f"is larger than relabel.batch_size={info.data['batch_size']}; lower it")
        return micro_batch

    def drawn(self, labels: str) -> RelabelConfig:
        """Return the section as labels that are not stored use it; all that they do not use is at its default.

        Hard labels have its views, unmixed; fixed ones have its mixtures, too, and the networks that label.
        """
        names = ["epochs", "batch_size", "crop_scale", "flip"]
        names += ["mix", "mix_alpha", "teachers"] if labels == "fixed" else []
        return RelabelConfig(**{"mix": "none"} | {name: getattr(self, name) for name in names})


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


_SOFT = {"labels": ("soft", "fixed")}
_KL = {**_SOFT, "loss": ("kl",)}


class EvaluateConfig(Section):
    """Students trained on the distilled images and their soft labels, scored on real validation images."""

    students: tuple[str, ...] = option(
        ("resnet18",), "networks to train, with any norm", keyed=False, protocol=False, min_length=1
    )
    stem: Stem = option("auto", "first layers of the students, as pretrain.stem")
    num_students: Count = option(3, "students of each network", keyed=False, protocol=False)
    lr: Positive = option(1e-3, "peak learning rate")
    weight_decay: NonNegative = option(0.01, "on weights of two or more dimensions")
    temperature: Positive = option(20.0, "of teacher's and student's softmax", only_with=_SOFT)
    temperature_decay: float = option(
        1.0, "factor of the teacher's temperature after every temperature_every epochs", gt=0, le=1, only_with=_KL
    )
    temperature_every: Count = option(
        30, "epochs after which the teacher's temperature falls", only_with=_KL, unless={"temperature_decay": 1.0}
    )
    temperature_floor: Positive = option(
        2.0, "the teacher's temperature falls no lower", only_with=_KL, unless={"temperature_decay": 1.0}
    )
    temperature_squared: bool = option(
        False, "multiply the divergence by the teacher's temperature squared", only_with=_KL
    )
    student_temperature: Literal["same", "fitted"] = option(
        "same", "of the student's softmax: the teacher's, or a multiple of it that is learned", only_with=_KL
    )
    student_temperature_lr: Positive = option(
        0.01,
        "peak learning rate of the fitted multiple's logarithm",
        only_with={**_KL, "student_temperature": ("fitted",)},
    )
    cosine_stretch: float = option(1.0, "cosine ends at 0 after epochs x this", ge=1, allow_inf_nan=True)
    val_every: Count = option(10, "epochs between validations (the last epoch always counts)", protocol=False)
    val_batch_size: int = option(
        0,
        "images per validation step (0: 250 on a CPU, more on a GPU if its memory allows)",
        ge=0,
        keyed=False,
        protocol=False,
    )
    protocol: Protocol = option("wmdd", "named settings that these are, or began as; see wmdd protocols", keyed=False)
    labels: Literal["soft", "fixed", "hard"] = option(
        "soft", "the teacher's logits of each stored view; one soft label for each image; class names alone"
    )
    loss: Literal["kl", "mse"] = option(
        "kl", "from soft labels: divergence at temperature, or of logits", only_with=_SOFT
    )
    ce_weight: NonNegative = option(
        0.0, "of a cross-entropy with the class, added to the loss of soft labels", only_with=_SOFT
    )
    augment: Augment = option(
        "none", "further random changes of views that are not stored (of stored ones: relabel.augment)"
    )
    optimizer: Literal["adamw", "sgd", "muon"] = option(
        "adamw", "update rule (sgd: with momentum, Nesterov off; muon: of hidden matrices, else adamw)"
    )
    muon_lr: Positive = option(0.02, "peak learning rate of muon's matrices", only_with={"optimizer": ("muon",)})
    momentum: float = option(0.9, "of sgd", ge=0, lt=1)
    schedule: Literal["cosine", "linear", "steps", "tail", "fifths"] = option(
        "cosine",
        "of lr (linear: to 0; steps: halved at 80, 90, 95 %; fifths: at 2/3, 5/6; tail: to 0 from 5/6 on)",
    )
    accumulate: Count = option(1, "parts of a batch whose gradients are added up before a step")
    ema: float = option(
        0.0, "also score a running average of the student's weights, with this decay (0: none)", ge=0, lt=1
    )
    rates: tuple[str, ...] = option(
        (), "students with another lr: NAME=LR, or NAME=LR:STRETCH with the cosine's stretch too"
    )
    baselines: tuple[Baseline, ...] = option(
        ("random", "easiest"),
        "also train on as many real images: random, nearest (to the atoms), easiest, herding",
        keyed=False,
        protocol=False,
    )
    worth: tuple[Count, ...] = option(
        (),
        "also train on this many times as many random real images, such as 1,2,5,10,20,50, in equal steps",
        keyed=False,
        protocol=False,
    )
    workers: Count = option(
        1,
        "workers on Ray that train a student together; scores do not depend on it, but for rounding",
        keyed=False,
        protocol=False,
    )
    full_data: bool = option(
        True, "train other students on all real images too, as the teacher was", keyed=False, protocol=False
    )

    _differ = field_validator("students", "baselines")(refuse_twice)

    @field_validator("worth")
    @classmethod
    def _are_different(cls, worth: tuple[int, ...]) -> tuple[int, ...]:
        refuse_twice(tuple(map(str, worth)))
        return worth

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
        """Return the section for one student, with the learning rate and stretch that it has in `rates`."""
        rates = {name: (lr, stretch or self.cosine_stretch) for name, lr, stretch in map(_rate, self.rates[::-1])}
        lr, stretch = rates.get(student, (self.lr, self.cosine_stretch))
        return self.model_copy(update={"lr": lr, "cosine_stretch": stretch, "rates": ()})

    @field_validator("augment")
    @classmethod
    def _has_own_views(cls, augment: str, info: ValidationInfo) -> str:
        if augment != "none" and info.data.get("labels") == "soft":
            raise ValueError("soft labels belong to the stored views; set relabel.augment, and this to none")
        return augment
