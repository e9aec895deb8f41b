"""The loss of recovery on images that hold tiles, and with mixed statistics."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CPU

from benchmarks.untrained import random_targets, untrained_teacher
from wmdd.config.recovery import RecoverConfig
from wmdd.data.views import draw_resized_crops
from wmdd.method.objective import Objective
from wmdd.method.recovery import recover_images
from wmdd.method.tiles import split
from wmdd.models.probes import Probe
from wmdd.seeding import SeedTree

SIZE, CLASSES = 16, 4
FEW = RecoverConfig(iterations=3, roll_px=2, lr=0.1)


@pytest.fixture(scope="module")
def teacher():
    return untrained_teacher("convnet2_w8", SIZE, CLASSES)


def test_views_of_tiles_are_views_of_the_enlarged_tiles(teacher):
    section = FEW.model_copy(update={"tiles": 2})
    whole = random_targets(teacher, 8)[0]
    stored = SeedTree(1).numpy().integers(0, 256, (2, 3, SIZE, SIZE), dtype=np.uint8)
    images = teacher.pixels.normalize(torch.from_numpy(stored))
    enlarged = F.interpolate(split(images, 2), size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    views = draw_resized_crops(np.random.default_rng(0), 1, (SIZE, SIZE), (0.3, 1.0), flip=True, roll_px=2)
    terms = []
    for options, shown in ((section, images), (FEW, enlarged)):
        with Probe(teacher.network.eval(), CLASSES) as probe:
            objective = Objective(options, [whole.statistics], [whole.barycenter], probe, SIZE, CPU)
            terms.append(objective(shown, views.box, views.flip, views.roll))
    torch.testing.assert_close(*terms, rtol=1e-4, atol=1e-5)


def test_images_with_tiles_start_from_noise_of_their_size(teacher):
    *_, last = recover_images(FEW.model_copy(update={"tiles": 2}), teacher, random_targets(teacher, 8), CPU)
    assert last.images.shape == (CLASSES, 2, 3, SIZE, SIZE)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_statistics_are_mixed_with_those_of_the_teacher(teacher, share):
    section, whole = FEW.model_copy(update={"bn_global_share": share}), random_targets(teacher, 2)[0]
    with Probe(teacher.network.eval(), CLASSES) as probe:
        objective = Objective(section, [whole.statistics], [whole.barycenter], probe, SIZE, CPU)
    running = [layer for layer in teacher.network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for number, (layer, moments) in enumerate(zip(running, whole.statistics.moments, strict=True)):
        mean = (1 - share) * moments.mean + share * layer.running_mean
        var = (1 - share) * moments.var + share * layer.running_var
        torch.testing.assert_close(objective.means[number][0], mean.float())
        torch.testing.assert_close(objective.vars[number][0], var.float())
