"""What is refused before anything is trained."""

import pytest
from builders import small_set

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
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
