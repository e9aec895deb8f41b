"""What is refused before anything is trained."""

import pytest
from builders import small_set

from wmdd.config.distill import override
from wmdd.config.protocols import protocols
from wmdd.config.recipes import recipe
from wmdd.config.resolve import with_protocol
from wmdd.data.scan import build_index
from wmdd.engine.preflight import check
from wmdd.errors import ConfigError

MIXED = {"ipc": 2, "recover.mix": "cutmix", "recover.bn_target": "global", "recover.classes_per_batch": 0}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(
        small_set(tmp_path_factory.mktemp("set"), classes=[f"c{number:02}" for number in range(60)], per_class=11)
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "60 classes have 1 image each in a tensor batch, so one of the 2 of a class is there without another"),
        ({"method": "sre2l"}, "60 classes have 1 image each"),
        (
            {"recover.classes_per_batch": 50, "ipc": 3},
            "50 classes have 2 images each in a tensor batch, so one of the 3",
        ),
        ({"recover.classes_per_batch": 35, "ipc": 3}, "35 classes have 2 images each"),
        (
            {"recover.classes_per_batch": 25, "ipc": 11},
            "10 classes have 10 images each in a tensor batch, so one of the 11",
        ),
    ],
)
def test_boxes_without_another_image_in_the_tensor_batch_are_refused(index, options, words):
    with pytest.raises(ConfigError, match=words):
        check(override(recipe("digits"), MIXED | options), index)


@pytest.mark.parametrize(
    "options",
    [
        {"recover.classes_per_batch": 50},
        {"recover.classes_per_batch": 10, "ipc": 3},
        {"recover.bn_target": "class", "ipc": 3},
    ],
)
def test_boxes_with_another_image_in_the_tensor_batch_are_accepted(index, options):
    check(override(recipe("digits"), MIXED | options), index)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ipc": 12}, r"ipc=12: larger than class c00 \(11 training images\); lower ipc"),
        ({"ipc": 12, "data.per_class": 4}, "ipc=12: is more than the images that data.per_class=4 keeps"),
        ({"recover.tiles": 3}, "recover.tiles=3: does not divide data.image_size=16"),
        ({"recover.tiles": 2, "ipc": 3}, "recover.tiles=2: needs 12 real images of each class"),
        ({"recover.tiles": 2, "barycenter.mass": "learned"}, "recover.tiles=2: the tiles of an image have one mass"),
        ({"recover.mix": "cutmix"}, "recover.mix=cutmix: with ipc=1 a class has no other image"),
        ({"recover.feature_loss": "transport", "recover.feature_weight": 0}, "is left out by recover.feature_weight=0"),
        ({"evaluate.temperature_decay": 0.5, "evaluate.worth": (1, 2)}, "evaluate.temperature_decay=0.5: falls by"),
        ({"pretrain.batch_size": 1}, "pretrain.batch_size=1: batch-norm needs two images"),
        ({"relabel.batch_size": 1}, "relabel.batch_size=1: batch-norm needs two images"),
        ({"pretrain.model": "vit_b_16"}, "pretrain.model=vit_b_16: has no batch-norm layers"),
        ({"pretrain.decode": "gpu", "runtime.device": "cpu"}, "pretrain.decode=gpu: runtime.device=cpu ensures no GPU"),
        ({"relabel.teachers": ("convnet3_w64",)}, "relabel.teachers=convnet3_w64: is pretrain.model"),
        ({"relabel.teachers": ("resnet",)}, "relabel.teachers=resnet: neither a ConvNet"),
        ({"relabel.teachers": ("convnet2_w8",), "evaluate.labels": "hard"}, "relabel.teachers=convnet2_w8: nobody"),
        ({"evaluate.students": ("resnet",)}, "evaluate.students=resnet: neither a ConvNet"),
        ({"evaluate.students": ("mobilenet_v2",), "evaluate.workers": 2}, "mobilenet_v2, which has dropout"),
    ],
)
def test_what_does_not_fit_the_set_is_refused_in_one_line(index, options, words):
    with pytest.raises(ConfigError, match=words) as refused:
        check(override(recipe("digits"), options), index)
    assert "\n" not in str(refused.value)


def test_a_selection_of_real_images_is_not_held_to_options_of_recovery(index):
    left_out = {"recover.tiles": 3, "recover.feature_loss": "transport", "recover.feature_weight": 0}
    check(override(recipe("digits"), {"method": "random", **left_out}), index)


def under(protocol, **options):
    return override(with_protocol(override(recipe("digits"), {"ipc": 2}), protocol), options)


def test_batches_of_another_number_of_classes_are_refused(index):
    words = (
        "^relabel.batch_size=50: protocol cim takes batches by the number of images, and did not know the 60 classes "
        "of this set, for which it has 100 at ipc=2; name them all in data.classes$"
    )
    for options in ({}, {"relabel.epochs": 7}):
        with pytest.raises(ConfigError, match=words):
            check(under("cim", **options), index)
    for options in ({"relabel.batch_size": 100}, {"relabel.batch_size": 64}):
        check(under("cim", **options), index)
    check(with_protocol(under("wmdd", **{"data.classes": index.class_names}), "cim"), index)
    check(under("cim", **{"ipc": 1, "relabel.batch_size": 50}), index)


def test_protocols_of_any_set_take_any_number_of_classes(index):
    for name in protocols().keys() - {"cim"}:
        check(under(name), index)


def test_batches_of_a_set_with_the_assumed_number_of_classes_are_accepted():
    check(under("cim"), build_index("builtin:digits"))
