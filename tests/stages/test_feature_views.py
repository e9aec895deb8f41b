"""Features of other views of the real images than the batch-norm moments: each is that of its views alone."""

import pytest
import torch
from builders import CPU
from image_files import folder

from wmdd.config.recovery import StatisticsConfig
from wmdd.data.scan import build_index
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.outputs import Output
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit
from wmdd.stages.planning import ClassParams

SIZE = 16


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    with SeedTree(0).scoped():
        weights = build_model("convnet2_w8", 2, SIZE).state_dict()
    names = [f"{split}/{name}/{i}.png" for split, n in (("train", 7), ("val", 2)) for name in "ab" for i in range(n)]
    index = build_index(folder(tmp_path_factory.mktemp("set"), *names))
    return {"teacher": Teacher("convnet2_w8", "auto", weights, ("a", "b"), 0.5, SIZE, 1.0, "half"), "index": index}


def measured(inputs, **options):
    """The statistics of a class, and the number of images that passed the teacher."""
    passed, section = [], StatisticsConfig(batch_size=4, **options)
    hook = inputs["teacher"].network.register_forward_pre_hook(lambda _, seen: passed.append(len(seen[0])))
    try:
        unit = Unit("class-1", ClassParams(1), inputs.__getitem__)
        (output,) = (
            event for event in STAGES["statistics"].run(section, [unit], SeedTree(7), CPU) if isinstance(event, Output)
        )
    finally:
        hook.remove()
    return output.value, sum(passed)


def equal_moments(one, other):
    pairs = zip(one.moments, other.moments, strict=True)
    return all(torch.equal(a.mean, b.mean) and torch.equal(a.var, b.var) for a, b in pairs)


@pytest.mark.parametrize(("views", "feature_views"), [("whole", "random"), ("random", "whole")])
def test_features_are_of_their_views_and_moments_of_the_others(inputs, views, feature_views):
    mixed, passed = measured(inputs, views=views, feature_views=feature_views)
    of_views, once = measured(inputs, views=views)
    of_features, _ = measured(inputs, views=feature_views)
    assert (once, passed) == (7, 14)
    assert equal_moments(mixed, of_views)
    assert torch.equal(mixed.features, of_features.features)
    assert not torch.equal(mixed.features, of_views.features)
    assert not equal_moments(mixed, of_features)


@pytest.mark.parametrize("views", ["whole", "random"])
def test_equal_views_need_one_pass(inputs, views):
    stated, passed = measured(inputs, views=views, feature_views=views)
    followed, _ = measured(inputs, views=views)
    assert passed == 7
    assert torch.equal(stated.features, followed.features)
    assert equal_moments(stated, followed)
