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
    return build_index(small_set(tmp_path_factory.mktemp("set"), classes=[f"c{number:02}" for number in range(60)]))


def test_boxes_of_other_images_need_another_image_in_the_tensor_batch(index):
    with pytest.raises(ConfigError, match="60 classes in a tensor batch, each has one image in it"):
        check(override(recipe("digits"), MIXED), index)
    for options in ({"recover.classes_per_batch": 10}, {"recover.bn_target": "class"}):
        check(override(recipe("digits"), MIXED | options), index)
