"""From a class's statistics to its images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from wmdd.config.base import Count, Fraction, NonNegative, Positive, Scale, Section, option


class StatisticsConfig(Section):
    """One pass over each class: features and batch-norm moments."""

    batch_size: Count = option(100, "images per forward pass (changes rounding only)")
    views: Literal["whole", "random"] = option(
        "whole", "of the real images: as in validation, or one random view of each, cropped by crop_scale"
    )
    feature_views: Literal["same", "whole", "random"] = option(
        "same", "of the real images for the features alone, which the atoms are of; same: as views"
    )
    crop_scale: Scale = option((0.08, 1.0), "area of these random views, low and high")
    flip: bool = option(True, "random horizontal flips of these views")

    @property
    def views_of_features(self) -> Literal["whole", "random"]:
        """The views whose features are kept; if they are not `views`, each image passes the teacher twice."""
        return self.views if self.feature_views == "same" else self.feature_views


class BarycenterConfig(Section):
    """The Wasserstein barycenter of each class's features."""

    mass: Literal["uniform", "learned"] = option("uniform", "mass of the atoms")
    init: Literal["kmeans++", "random"] = option("kmeans++", "first atoms, from the class's own features")
    max_iterations: Count = option(100, "alternations of plan and positions at most")
    tolerance: NonNegative = option(1e-7, "relative fall of the objective that ends the search")


class RecoverConfig(Section):
    """Optimise images whose features match the barycenter and whose statistics match the class."""

    init: Literal["noise", "nearest", "random", "easiest"] = option(
        "noise",
        "start from noise, or real images: nearest to the atoms, random, easiest (least loss of the teacher)",
    )
    iterations: int = option(2000, "optimisation steps (0 keeps the start)", ge=0)
    lr: Positive = option(0.25, "peak learning rate of the pixels, cosine to 0")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = option(
        (0.5, 0.9), "of Adam"
    )
    feature_loss: Literal["rms", "squared", "transport"] = option(
        "rms", "to the atoms: rms (released code), squared (paper); transport: W2^2 to real features"
    )
    transport_sample: Count = option(
        128, "real features that a step's transport draws of each class", only_with={"feature_loss": ("transport",)}
    )
    feature_weight: NonNegative = option(10.0, "of the feature term (10: the released code at 100 images)")
    bn_weight: NonNegative = option(10.0, "of the batch-norm term, lambda in the paper")
    bn_weight_scale: Literal["absolute", "relative"] = option(
        "absolute", "relative: each layer's distances are in units of the class's own statistics"
    )
    first_bn_multiplier: NonNegative = option(1.0, "extra weight of the first batch-norm layer")
    ce_weight: NonNegative = option(1.0, "of the cross-entropy term")
    crop_scale: Scale = option((0.08, 1.0), "area of the random view of each step, low and high")
    flip: bool = option(True, "random horizontal flips of the view")
    roll_px: int = option(32, "random cyclic shift of the view up to this, px", ge=0)
    mix: Literal["none", "cutmix"] = option("none", "a box of each view shows another image of the class, as in CutMix")
    classes_per_batch: int = option(
        0, "classes that share one tensor batch, part of the key (0: as many as make 100 images)", ge=0
    )
    bn_target: Literal["class", "global"] = option(
        "class", "statistics to match: of each class's real images, or the teacher's own over all classes"
    )
    bn_global_share: float = option(
        0.0,
        "share of the teacher's own statistics in those of the class that are matched",
        ge=0,
        le=1,
        only_with={"bn_target": ("class",)},
    )
    tv_weight: NonNegative = option(0.0, "of the total-variation prior")
    l2_weight: NonNegative = option(0.0, "of the L2 prior")
    tiles: int = option(
        1,
        "smaller images on each side of an image, which networks see enlarged (0: 2 at ipc 1, if they fit)",
        ge=0,
        le=8,
    )
    curriculum: Literal["none", "step", "linear", "cosine"] = option(
        "none", "views begin with whole images, and the least area falls to crop_scale's (CDA)"
    )
    curriculum_share: Fraction = option(1.0, "share of the iterations in which it falls")

    @property
    def uncompiled(self) -> str:
        """Why recovery is never compiled, if it is not."""
        has_transport = self.feature_loss == "transport" and self.feature_weight > 0
        return "recover.feature_loss=transport: POT finds plans on the CPU" if has_transport else ""

    @field_validator("tiles")
    @classmethod
    def _has_own_statistics(cls, tiles: int, info: ValidationInfo) -> int:
        if tiles > 1 and info.data.get("bn_target") == "global":
            raise ValueError("tiles need the statistics of their class; set recover.bn_target to class, or this to 1")
        return tiles

    @field_validator("curriculum_share")
    @classmethod
    def _falls(cls, share: float, info: ValidationInfo) -> float:
        if share == 1 and info.data.get("curriculum") == "step":
            raise ValueError("with recover.curriculum=step all views would be whole images; give a share below 1")
        return share
