"""Which real images each rule chooses, and with which mass."""

import numpy as np
import pytest
import torch
from builders import CPU, normal
from image_files import folder
from torch.nn import functional

from wmdd.config.distill import DistillConfig
from wmdd.data.batches import class_images
from wmdd.data.geometry import Geometry
from wmdd.data.scan import build_index
from wmdd.method.artifacts import Barycenter
from wmdd.models.probes import Probe, head_logits
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.seeding import SeedTree
from wmdd.stages import STAGES, Unit

GEOMETRY = Geometry(16, 1.0, "half")


@pytest.fixture
def index(tmp_path):
    return build_index(
        folder(tmp_path, *(f"{split}/{c}/{i}.png" for split in ("train", "val") for c in "ab" for i in range(6)))
    )


def teacher():
    with SeedTree(3).scoped():
        weights = build_model("convnet2_w16", 2, 16).state_dict()
    sure = {name: 20 * w if w.ndim == 2 else w for name, w in weights.items()}
    return Teacher("convnet2_w16", "auto", sure, ("a", "b"), 0.5, 16, 1.0, "half")


def run(stage, params, **inputs):
    unit = Unit("unit", STAGES[stage].params(**params), inputs.__getitem__)
    (output,) = STAGES[stage].run(STAGES[stage].section_of(DistillConfig()), [unit], SeedTree(7), CPU)
    return output.value


def test_nearest_images_are_those_of_the_atoms_with_their_mass(index):
    mass = torch.tensor([0.5, 0.3, 0.2])
    nearest = torch.tensor([4, 0, 2])
    atoms = Barycenter(1, normal(3, 6), mass, nearest, (1.0,), True, (0.0,) * 5)
    params = {"class_id": 1, "ipc": 3, "geometry": GEOMETRY, "rule": "nearest"}
    chosen = run("select", params, index=index, barycenter=atoms)
    assert chosen.sources == (4, 0, 2)
    assert torch.equal(chosen.mass, mass)
    assert torch.equal(chosen.images, class_images(index, 1, GEOMETRY, nearest.numpy()))


@pytest.mark.parametrize("class_id", [0, 1])
def test_easiest_images_have_the_lowest_loss_of_the_teacher(index, class_id):
    judge = teacher()
    measured = run("statistics", {"class_id": class_id}, index=index, teacher=judge)
    params = {"class_id": class_id, "ipc": 4, "geometry": GEOMETRY, "rule": "easiest"}
    chosen = run("select", params, index=index, statistics=measured, teacher=judge)
    with torch.no_grad():
        logits = judge.network(judge.pixels.normalize(class_images(index, class_id, GEOMETRY, np.arange(6))))
    losses = functional.cross_entropy(logits, torch.full((6,), class_id), reduction="none")
    assert chosen.sources == tuple(losses.argsort()[:4].tolist())
    assert chosen.mass.tolist() == [0.25] * 4


@pytest.mark.parametrize("name", ["convnet2_w16", "resnet18", "mobilenet_v2"])
def test_logits_follow_from_features(name):
    with SeedTree(0).scoped():
        network = build_model(name, 5, 32).eval()
    with Probe(network, 5) as probe, torch.no_grad():
        logits, features, _ = probe.run(normal(3, 3, 32, 32))
    torch.testing.assert_close(head_logits(network, 5, features), logits)
