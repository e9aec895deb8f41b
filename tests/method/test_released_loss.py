"""The released loss, written down slowly and apart from ours: with 100 images the gradients agree."""

import copy

import pytest
import torch
from builders import CPU

from wmdd.config.recovery import RecoverConfig
from wmdd.method.artifacts import Barycenter, ClassStatistics
from wmdd.method.moments import Moments
from wmdd.method.objective import Objective
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model
from wmdd.seeding import SeedTree

SIZE, IMAGES, BN_WEIGHT, CE_WEIGHT = 16, 100, 3.0, 0.7


def normal(*shape, seed):
    return torch.randn(*shape, generator=SeedTree(seed).torch())


def network(classes):
    with SeedTree(1).scoped():
        made = build_model("convnet3_w16", classes, SIZE)
    return made.double().eval().requires_grad_(False)


def look(model, images):
    """Logits, features and the inputs of batch-norm layers, by hooks that are not those of `Probe`."""
    seen, kept = [], []
    layers = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    handles = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for layer in layers]
    handles.append(head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0])))
    logits = model(images)
    for handle in handles:
        handle.remove()
    return logits, kept[0], seen


def released(model, images, support, means, variances):
    """One number for the whole batch: cross-entropy, a norm over all features, and each class's statistics."""
    classes, ipc = len(support), IMAGES // len(support)
    logits, features, seen = look(model, images)
    cross_entropy = 0.0
    for i in range(IMAGES):
        cross_entropy = cross_entropy - torch.log(torch.exp(logits[i]) / torch.exp(logits[i]).sum())[i // ipc] / IMAGES
    squares = 0.0
    for i in range(IMAGES):
        squares = squares + ((features[i] - support[i // ipc][i % ipc]) ** 2).sum()
    statistics = 0.0
    for layer, inputs in enumerate(seen):
        for c in range(classes):
            part = inputs[c * ipc : (c + 1) * ipc]
            mean = part.mean(dim=(0, 2, 3))
            variance = ((part - mean[None, :, None, None]) ** 2).mean(dim=(0, 2, 3))
            far = ((mean - means[c][layer]) ** 2).sum().sqrt() + ((variance - variances[c][layer]) ** 2).sum().sqrt()
            statistics = statistics + far / classes
    return CE_WEIGHT * cross_entropy + squares.sqrt() + BN_WEIGHT * statistics


def case(classes, *, level=False):
    """Images, a teacher and what they are to match; with `level`, every class is as far from its atoms."""
    model, ipc = network(classes), IMAGES // classes
    images = normal(IMAGES, 3, SIZE, SIZE, seed=2).double()
    real = [normal(20, 3, SIZE, SIZE, seed=10 + c).double() for c in range(classes)]
    with torch.no_grad():
        now = look(model, images)[1].unflatten(0, (classes, ipc))
        step = normal(*now.shape, seed=3).double()
        lengths = step.flatten(1).norm(dim=1)
        step = step / lengths[:, None, None] * (1.0 if level else torch.linspace(0.5, 1.5, classes)[:, None, None])
        support = now - step
        layers = [look(model, images)[2] for images in real]
    moments = [[Moments.of(layer) for layer in inputs] for inputs in layers]
    return model, images, support, moments


def ours(model, images, support, moments):
    """The mean over classes of our loss, in float32."""
    model, images, support = copy.deepcopy(model).float(), images.float(), support.float()
    classes, ipc, size = len(support), IMAGES // len(support), SIZE
    section = RecoverConfig(feature_weight=10.0, bn_weight=BN_WEIGHT, ce_weight=CE_WEIGHT, iterations=1)
    mass = torch.full((ipc,), 1 / ipc)
    statistics = [ClassStatistics(c, support[c][:1], tuple(moments[c])) for c in range(classes)]
    atoms = [Barycenter(c, support[c], mass, torch.arange(ipc), (1.0,), True, (0.0,) * 5) for c in range(classes)]
    whole = torch.tensor([[0, 0, size, size]] * classes)
    still = torch.zeros(classes, dtype=torch.bool), torch.zeros(classes, 2, dtype=torch.int32)
    with Probe(model, classes) as probe:
        objective = Objective(section, statistics, atoms, probe, size, CPU)
        terms = objective(images, whole, *still)
        return (terms * objective.term_weights).sum() / classes


def gradients(classes, **options):
    model, images, support, moments = case(classes, **options)
    images.requires_grad_(True)
    means, variances = [[m.mean for m in layers] for layers in moments], [[m.var for m in layers] for layers in moments]
    theirs = released(model, images, support, means, variances)
    mine = ours(model, images, support, moments)
    return torch.autograd.grad(mine, images)[0], torch.autograd.grad(theirs, images)[0]


@pytest.mark.parametrize("classes", [2, 10, 50])
def test_gradients_are_the_released_losss(classes):
    mine, theirs = gradients(classes, level=True)
    assert (mine - theirs).norm() < 1e-5 * theirs.norm()


def test_unequal_distances_change_no_direction():
    mine, theirs = gradients(10)
    for c in range(10):
        a, b = (grad[10 * c : 10 * c + 10].flatten() for grad in (mine, theirs))
        assert torch.cosine_similarity(a, b, dim=0) > 0.9
