"""Soft labels, and the students that learn from them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from wmdd.config.base import (
    Augment,
    Count,
    NonNegative,
    Positive,
    Protocol,
    Scale,
    Section,
    Stem,
    option,
    refuse_twice,
)


class RelabelConfig(Section):
    """Soft labels: the teacher's logits of stored views (fast knowledge distillation)."""

    epochs: Count = option(300, keyed=False, description="epochs of stored views, which are the student's epochs")
    batch_size: Count = Field(100, description="images per stored label batch, at most the whole set")
    crop_scale: Scale = Field((0.08, 1.0), description="area of random resized crops, low and high")
    flip: bool = Field(True, description="random horizontal flips")
    mix: Literal["cutmix", "mixup", "none"] = Field(
        "cutmix", description="mix the images of a batch: one permutation, and one box or one share"
    )
    mix_alpha: Positive = Field(1.0, description="of the Beta distribution of the mixed area or share")
    bn_mode: Literal["running", "batch"] = Field(
        "running", description="teacher's batch-norm: running, or of the batch"
    )
    epochs_per_block: Count = option(50, keyed=False, protocol=False, description="epochs in one unit of work")
    micro_batch: Annotated[int, Field(ge=0)] = Field(
        0, description="images that share the teacher's batch-norm statistics with bn_mode=batch (0: the whole batch)"
    )
    augment: Augment = Field("none", description="further random changes of each image before its stored view")
    teachers: tuple[str, ...] = Field(
        (), description="more networks, trained or loaded as the teacher was; the labels are the mean of all logits"
    )

    @field_validator("teachers")
    @classmethod
    def _differ(cls, teachers: tuple[str, ...]) -> tuple[str, ...]:
        return refuse_twice(teachers)

    @field_validator("micro_batch")
    @classmethod
    def _is_used(cls, micro_batch: int, info: ValidationInfo) -> int:
        if micro_batch and info.data.get("bn_mode", "batch") == "running":
            raise ValueError("the running statistics (relabel.bn_mode) know no parts of a batch; set it to 0")
        if micro_batch > info.data.get("batch_size", micro_batch):
            raise ValueError(f"is larger than relabel.batch_size={info.data['batch_size']}; lower it")
        return micro_batch

    def hard(self) -> RelabelConfig:
        """Return the section as hard labels use it: its views, unmixed; all else is at its default."""
        views = {name: getattr(self, name) for name in ("epochs", "batch_size", "crop_scale", "flip")}
        return RelabelConfig(mix="none", **views)


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


_SOFT = {"labels": "soft"}


class EvaluateConfig(Section):
    """Students trained on the distilled images and their soft labels, scored on real validation images."""

    students: tuple[str, ...] = option(
        ("resnet18",), keyed=False, protocol=False, min_length=1, description="networks to train, with any norm"
    )
    stem: Stem = Field("auto", description="first layers of the students, as pretrain.stem")
    num_students: Count = option(3, keyed=False, protocol=False, description="students of each network")
    lr: Positive = Field(1e-3, description="peak learning rate")
    weight_decay: NonNegative = Field(0.01, description="on weights of two or more dimensions")
    temperature: Positive = option(20.0, only_with=_SOFT, description="of teacher's and student's softmax")
    cosine_stretch: Annotated[float, Field(ge=1.0, allow_inf_nan=True)] = Field(
        1.0, description="cosine ends at 0 after epochs x this"
    )
    val_every: Count = option(
        10, protocol=False, description="epochs between validations (the last epoch always counts)"
    )
    val_batch_size: Count = option(250, keyed=False, protocol=False, description="images per validation step")
    protocol: Protocol = option(
        "wmdd", keyed=False, description="named settings that these are, or began as; see wmdd protocols"
    )
    labels: Literal["soft", "hard"] = Field("soft", description="the teacher's stored logits, or class names alone")
    loss: Literal["kl", "mse"] = option(
        "kl", only_with=_SOFT, description="from soft labels: divergence at temperature, or of logits"
    )
    ce_weight: NonNegative = option(
        0.0, only_with=_SOFT, description="of a cross-entropy with the class, added to the loss of soft labels"
    )
    augment: Augment = Field(
        "none", description="further random changes of each view with hard labels (soft: relabel.augment)"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="update rule (sgd: with momentum, Nesterov off)")
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.9, description="of sgd")
    schedule: Literal["cosine", "linear", "steps", "tail"] = Field(
        "cosine",
        description="of the learning rate (linear: to 0; steps: halved at 80, 90, 95 %; tail: to 0 in the last sixth)",
    )
    accumulate: Count = Field(1, description="parts of a batch whose gradients are added up before a step")
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="also score a running average of the student's weights, with this decay (0: none)"
    )
    rates: tuple[str, ...] = Field(
        (), description="students with an lr of their own: NAME=LR, or NAME=LR:STRETCH with the cosine's stretch too"
    )

    @field_validator("students")
    @classmethod
    def _differ(cls, students: tuple[str, ...]) -> tuple[str, ...]:
        return refuse_twice(students)

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

    random_real: bool = option(
        True, keyed=False, protocol=False, description="also train on as many random real images, one draw per seed"
    )
    full_data: bool = option(
        True, keyed=False, protocol=False, description="train other students on all real images too, as the teacher was"
    )
