"""From a class's statistics to its images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from wmdd.config.base import Count, Fraction, NonNegative, Positive, Scale, Section


class StatisticsConfig(Section):
    """One pass over each class: features and batch-norm moments."""

    batch_size: Count = Field(100, description="images per forward pass (changes rounding only)")
    views: Literal["whole", "random"] = Field(
        "whole",
        description="of the real images: as in validation, or one random view of each, as recovery shows images",
    )
    crop_scale: Scale = Field((0.08, 1.0), description="area of these random views, low and high")
    flip: bool = Field(True, description="random horizontal flips of these views")


class BarycenterConfig(Section):
    """The Wasserstein barycenter of each class's features."""

    mass: Literal["uniform", "learned"] = Field("uniform", description="mass of the atoms")
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
    bn_target: Literal["class", "global"] = Field(
        "class", description="statistics to match: of each class's real images, or the teacher's own over all classes"
    )
    tv_weight: NonNegative = Field(0.0, description="of the total-variation prior")
    l2_weight: NonNegative = Field(0.0, description="of the L2 prior")
    curriculum: Literal["none", "step", "linear", "cosine"] = Field(
        "none", description="views begin with whole images, and the least area falls to crop_scale's (CDA)"
    )
    curriculum_share: Fraction = Field(1.0, description="share of the iterations in which it falls")

    @field_validator("curriculum_share")
    @classmethod
    def _falls(cls, share: float, info: ValidationInfo) -> float:
        if share == 1 and info.data.get("curriculum") == "step":
            raise ValueError("with recover.curriculum=step all views would be whole images; give a share below 1")
        return share
