"""The cells of `benchmarks.ablation`: what is changed of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A change of the reference, which is a recipe with the options of `reference`.

    Args:
        name: as ``--only`` takes it.
        about: in words, for the table.
        options: by dotted name.
    """

    name: str
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)


# At weight 100 the gradient of transport is between a half of and twice that of the recipes' term (digits, measured).
_TRANSPORT = {"recover.feature_loss": "transport", "recover.feature_weight": 100.0}

_BARE = {"recover.feature_weight": 0.0}
_BARE_EASIEST = {"recover.init": "easiest", **_BARE}
_SMALL_CROPS = {"recover.crop_scale": (0.08, 1.0)}
_CROPS_QUARTER = {"recover.crop_scale": (0.25, 1.0)}
# Recipe `cifar10-quick`: what cells of the students' options change.
_RECIPE = {**_CROPS_QUARTER, "recover.tiles": 0, **_BARE}
_START_TILES = {"recover.iterations": 0, "recover.tiles": 2, **_BARE}

# What the cells change: the released code's term at its weight, and whole images. A recipe may have other values.
REFERENCE = {"recover.feature_weight": 10.0, "recover.tiles": 1}
CROPS = {"recover.crop_scale": (0.5, 1.0)}


def reference(recipe: str) -> dict[str, Any]:
    """Return what the cells of a recipe change; those of CIFAR also have fixed crops."""
    return REFERENCE | (CROPS if recipe.startswith("cifar") else {})


# Cells to which others are compared, each to that from which it differs in the fewest options.
BASES = ("reference", "no-features", "bare-tiles", "bare-crops-0.25", "bare-crops-0.25-tiles")

# Those that say most come first: a call that is interrupted leaves the best table.
CELLS = (
    Cell("reference", "start nearest to the atoms, all three terms"),
    Cell("no-features", "no Wasserstein term", _BARE),
    Cell("tiles", "four tiles in each image, an atom for each", {"recover.tiles": 2}),
    Cell("easiest-start", "start from the real images of the least loss", {"recover.init": "easiest"}),
    Cell("easiest-tiles", "easiest start, four tiles in each image", {"recover.init": "easiest", "recover.tiles": 2}),
    Cell("bare-tiles", "four tiles and no Wasserstein term", {"recover.tiles": 2, **_BARE}),
    Cell("bare-tiles-16", "sixteen tiles and no Wasserstein term", {"recover.tiles": 4, **_BARE}),
    Cell("bare-easiest", "easiest start and no Wasserstein term", _BARE_EASIEST),
    Cell("bare-easiest-tiles", "easiest start, four tiles, no Wasserstein term", {**_BARE_EASIEST, "recover.tiles": 2}),
    Cell("bare-steps-1000", "1,000 steps and no Wasserstein term", {"recover.iterations": 1000, **_BARE}),
    Cell("bare-steps-2000", "2,000 steps and no Wasserstein term", {"recover.iterations": 2000, **_BARE}),
    Cell(
        "bare-half-global",
        "statistics half of all classes, no Wasserstein term",
        {"recover.bn_global_share": 0.5, **_BARE},
    ),
    Cell(
        "bare-quarter-global",
        "statistics a quarter of all classes, no Wasserstein term",
        {"recover.bn_global_share": 0.25, **_BARE},
    ),
    Cell("random-start", "start from random real images", {"recover.init": "random"}),
    Cell("noise", "start from noise", {"recover.init": "noise"}),
    Cell("bare-random", "random start, no Wasserstein term", {"recover.init": "random", **_BARE}),
    Cell("bare-noise", "start from noise, no Wasserstein term", {"recover.init": "noise", **_BARE}),
    Cell("recipe-random", "the recipe, random start", {"recover.init": "random", **_RECIPE}),
    Cell("steps-100", "100 steps", {"recover.iterations": 100}),
    Cell("steps-1000", "1,000 steps", {"recover.iterations": 1000}),
    Cell("no-cross-entropy", "no cross-entropy", {"recover.ce_weight": 0.0}),
    Cell("global-statistics", "statistics of all classes", {"recover.bn_target": "global"}),
    Cell("half-global", "statistics half of the class, half of all", {"recover.bn_global_share": 0.5}),
    Cell("features-100", "ten times the Wasserstein term", {"recover.feature_weight": 100.0}),
    Cell(
        "squared",
        "squared distances, as the paper's formula",
        {"recover.feature_loss": "squared", "recover.feature_weight": 0.1},
    ),
    Cell("transport", "transport to samples of real features, not to atoms", _TRANSPORT),
    Cell(
        "transport-views",
        "transport to features of random views",
        {**_TRANSPORT, "statistics.feature_views": "random"},
    ),
    Cell("transport-strong", "ten times the weight of transport", {**_TRANSPORT, "recover.feature_weight": 1000.0}),
    Cell("learned-mass", "learned masses", {"barycenter.mass": "learned"}),
    Cell("bn-10", "a tenth of the batch-norm term", {"recover.bn_weight": 10.0}),
    Cell("bn-1000", "ten times the batch-norm term", {"recover.bn_weight": 1000.0}),
    Cell("lr-0.1", "twice the rate of the pixels", {"recover.lr": 0.1}),
    Cell("small-crops", "crops from 0.08 of the area", _SMALL_CROPS),
    Cell("bare-small-crops", "crops from 0.08 of the area, no Wasserstein term", {**_SMALL_CROPS, **_BARE}),
    Cell(
        "bare-easiest-small-crops",
        "easiest start, crops from 0.08 of the area, no Wasserstein term",
        {**_SMALL_CROPS, **_BARE_EASIEST},
    ),
    Cell(
        "bare-small-crops-tiles",
        "crops from 0.08 of the area, four tiles, no Wasserstein term",
        {**_SMALL_CROPS, "recover.tiles": 2, **_BARE},
    ),
    Cell("crops-0.25", "crops from 0.25 of the area", _CROPS_QUARTER),
    Cell("bare-crops-0.25", "crops from 0.25 of the area, no Wasserstein term", {**_CROPS_QUARTER, **_BARE}),
    Cell(
        "bare-crops-0.25-tiles",
        "crops from 0.25 of the area, four tiles, no Wasserstein term",
        {**_CROPS_QUARTER, "recover.tiles": 2, **_BARE},
    ),
    Cell(
        "bare-whole-views",
        "whole images flipped and shifted in recovery, without crops, no Wasserstein term",
        {"recover.crop_scale": (1.0, 1.0), **_BARE},
    ),
    Cell("bare-mix", "boxes of other images of the class, no Wasserstein term", {"recover.mix": "cutmix", **_BARE}),
    Cell(
        "bare-crops-0.25-mix",
        "crops from 0.25 of the area, boxes of other images, no Wasserstein term",
        {**_CROPS_QUARTER, "recover.mix": "cutmix", **_BARE},
    ),
    Cell(
        "bare-crops-0.25-mix-tiles",
        "crops from 0.25 of the area, boxes of other images, four tiles, no Wasserstein term",
        {**_CROPS_QUARTER, "recover.mix": "cutmix", "recover.tiles": 2, **_BARE},
    ),
    Cell("bare-no-cross-entropy", "the batch-norm term alone", {"recover.ce_weight": 0.0, **_BARE}),
    Cell("bare-bn-0", "the cross-entropy alone", {"recover.bn_weight": 0.0, **_BARE}),
    Cell("bn-0", "no batch-norm term", {"recover.bn_weight": 0.0}),
    Cell("start-tiles", "no steps: four real images nearest to the atoms, as tiles", _START_TILES),
    Cell(
        "start-random-tiles",
        "no steps: four random real images, as tiles",
        {"recover.init": "random", **_START_TILES},
    ),
    Cell(
        "start-easiest-tiles",
        "no steps: the four easiest real images, as tiles",
        {"recover.init": "easiest", **_START_TILES},
    ),
    Cell("random-views", "statistics of random views from 0.08 of the area", {"statistics.views": "random"}),
    Cell(
        "random-views-as-seen",
        "statistics of random views as recovery crops them, no Wasserstein term",
        {"statistics.views": "random", "statistics.crop_scale": (0.5, 1.0), **_BARE},
    ),
    Cell("feature-views", "atoms of features of random views", {"statistics.feature_views": "random"}),
    Cell("smooth", "total variation", {"recover.tv_weight": 0.1}),
    Cell("bare-tv-1", "total variation at weight 1, no Wasserstein term", {"recover.tv_weight": 1.0, **_BARE}),
    Cell("weak-teacher", "a teacher of three epochs", {"pretrain.epochs": 3}),
    Cell(
        "bare-crops-0.25-strong-teacher",
        "a teacher of thirty epochs, crops from 0.25 of the area, no Wasserstein term",
        {"pretrain.epochs": 30, **_CROPS_QUARTER, **_BARE},
    ),
    Cell(
        "bare-smoothing",
        "a teacher trained with label smoothing 0.1, no Wasserstein term",
        {"pretrain.label_smoothing": 0.1, **_BARE},
    ),
    Cell("bare-temperature-4", "students' temperature 4, no Wasserstein term", {"evaluate.temperature": 4.0, **_BARE}),
    Cell(
        "bare-smoothing-temperature-4",
        "a teacher trained with label smoothing 0.1, students' temperature 4, no Wasserstein term",
        {"pretrain.label_smoothing": 0.1, "evaluate.temperature": 4.0, **_BARE},
    ),
    Cell("ensemble", "labels by two more networks", {"relabel.teachers": ("convnet3_w32", "convnet3_w128")}),
    Cell(
        "recipe-ensemble",
        "the recipe, labels by two more networks",
        {"relabel.teachers": ("convnet3_w32", "convnet3_w128"), **_RECIPE},
    ),
    Cell(
        "recipe-adamw",
        "the recipe, students by AdamW at 0.001",
        {"evaluate.optimizer": "adamw", "evaluate.lr": 1e-3, **_RECIPE},
    ),
    Cell(
        "recipe-running-labels", "the recipe, labels by running statistics", {"relabel.bn_mode": "running", **_RECIPE}
    ),
    Cell("recipe-mse", "the recipe, students by the squared error of logits", {"evaluate.loss": "mse", **_RECIPE}),
    Cell("recipe-randaugment", "the recipe, RandAugment in the views", {"relabel.augment": "randaugment", **_RECIPE}),
    Cell(
        "recipe-stretch-2",
        "the recipe, cosine stretched to twice the epochs",
        {"evaluate.cosine_stretch": 2.0, **_RECIPE},
    ),
    Cell(
        "recipe-falling-temperature",
        "the recipe, the labels' temperature falls from 20 to 2, by a tenth every 30 epochs",
        {"evaluate.temperature_decay": 0.9, **_RECIPE, "recover.tiles": 1},  # refused with tiles
    ),
    Cell(
        "recipe-fitted-temperature",
        "the recipe, the students' temperature fitted",
        {"evaluate.student_temperature": "fitted", **_RECIPE},
    ),
)
