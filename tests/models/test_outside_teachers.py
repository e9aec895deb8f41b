"""Teachers from elsewhere: other names for the same layers, published weights, and classes in another order."""

import argparse
import dataclasses
import itertools
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.config.sections import RuntimeConfig
from wmdd.data.load_index import load_index
from wmdd.engine.plan import plan_from
from wmdd.engine.run import run_stage
from wmdd.errors import ConfigError
from wmdd.models.published import check_published
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.models.weight_files import card_in, is_file
from wmdd.models.weights import check_card, load_weights, translated
from wmdd.runtime import Runtime
from wmdd.seeding import SeedTree
from wmdd.stages import Unit
from wmdd.stages.load_teacher import best_input, check_order, hardly
from wmdd.stages.pretrain import PRETRAIN
from wmdd.storage.store import ArtifactStore


def network(seed, name="resnet18", classes=5):
    with SeedTree(seed).scoped():
        return build_model(name, classes, 32)


def released(key):
    return key.replace("downsample.0.", "downsample.conv.").replace("downsample.1.", "downsample.norm.")


def cifar(key):
    return key.replace("downsample.", "shortcut.").replace("fc.", "linear.")


@pytest.fixture(scope="module")
def theirs():
    return network(1)


def test_other_names_of_the_same_layers_load_strictly(tmp_path, theirs):
    ours, path, failures = network(2), str(tmp_path / "model_49.pth"), []
    prefixes, wrappers = ("", "module.", "module.model.", "_orig_mod."), (None, "model", "state_dict", "net")
    for rename, prefix, wrapper in itertools.product((released, cifar), prefixes, wrappers):
        for value in ours.state_dict().values():
            value.fill_(-1)
        state = {prefix + rename(key): value for key, value in theirs.state_dict().items()}
        torch.save({wrapper: state, "epoch": 49, "args": argparse.Namespace(lr=0.1)} if wrapper else state, path)
        load_weights(ours, path, "resnet18")
        if not all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items()):
            failures.append((rename.__name__, prefix, wrapper))
    assert failures == []


def test_b14_missing_layer_is_not_left_random(tmp_path):
    """The released code loads the same file with strict=False."""
    state = {released(key): value for key, value in network(1).state_dict().items() if "downsample.0" not in key}
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=r"3 keys: it lacks layer2\.0\.downsample\.0\.weight"):
        load_weights(network(2), str(tmp_path / "model.pth"), "resnet18")


def test_names_that_fit_are_never_changed():
    state = {"linear.weight": torch.zeros(1), "module.head.weight": torch.zeros(1)}
    assert set(translated(state, {"linear.weight", "module.head.weight"})) == set(state)
    assert set(translated(state, {"fc.weight", "head.weight"})) == {"fc.weight", "head.weight"}


@each_of(
    ("source", "file"),
    [("default", False), ("IMAGENET1K_V2", False), ("ResNet50_Weights.IMAGENET1K_V1", False)]
    + [(name, True) for name in ("a.pth", "x/teacher", "s3://b/w.safetensors", "./IMAGENET1K_V1")],
)
def test_files_are_told_from_published_names(source, file):
    assert is_file(source) is file


def test_unknown_published_weights_are_refused():
    with pytest.raises(ConfigError, match="no published weights of resnet18; choose from default, IMAGENET1K_V1"):
        load_weights(network(0), "IMAGENET1K_V9", "resnet18")
    with pytest.raises(ConfigError, match=r"ResNet50_Weights\.DEFAULT: no published weights of resnet18"):
        check_published("resnet18", "ResNet50_Weights.DEFAULT", 1000, "imagenet")
    with pytest.raises(ConfigError, match="no such file; resnet10t has its weights by default"):
        check_published("resnet10t", "IMAGENET1K_V1", 1000, "imagenet")
    for source in ("default", "IMAGENET1K_V1"):
        with pytest.raises(ConfigError, match="convnet3 has no published weights; leave it out to train one"):
            check_published("convnet3", source, 10, "imagenet")


def test_published_weights_are_found_by_their_name(monkeypatch):
    import torchvision.models as zoo

    theirs, asked = build_model("resnet50", 1000, 224), []

    def given(self, **options):
        asked.append(str(self))
        return theirs.state_dict()

    monkeypatch.setattr(zoo.WeightsEnum, "get_state_dict", given)
    ours = build_model("resnet50", 1000, 224)
    for source in ("IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V1"):
        ours.fc.weight.data.fill_(0)
        load_weights(ours, source, "resnet50")
        assert torch.equal(ours.fc.weight, theirs.fc.weight)
    assert asked == ["ResNet50_Weights.IMAGENET1K_V1"] * 2


def card(tmp_path, names):
    weights = network(1, "convnet2_w16", len(names)).state_dict()
    made = Teacher("convnet2_w16", "auto", weights, names, 0.9, 16, 1.0, "half")
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(made.to_files()["teacher.safetensors"])
    return str(path)


def test_teacher_of_another_class_order_is_refused(tmp_path):
    path = card(tmp_path, ("cat", "dog", "owl"))
    assert card_in(path)["class_names"] == ["cat", "dog", "owl"]
    check_card(path, ("cat", "dog", "owl"), 16, "half")
    with pytest.raises(ConfigError, match="its output 1 is dog, the data's class 1 is owl"):
        check_card(path, ("cat", "owl", "dog"), 16, "half")
    with pytest.raises(ConfigError, match="it has 3 classes, the data 2"):
        check_card(path, ("cat", "dog"), 16, "half")


@each_of(
    ("size", "normalization", "told"),
    [(32, "half", r"data\.image_size=16, not 32"), (16, "cifar10", r"data\.normalization=half, not cifar10")],
)
def test_teacher_of_another_input_is_refused(tmp_path, size, normalization, told):
    with pytest.raises(ConfigError, match=f"was trained with {told}; set it so"):
        check_card(card(tmp_path, ("cat", "dog")), ("cat", "dog"), size, normalization)


def test_published_weights_of_few_classes_are_refused():
    check_published("resnet18", "default", 1000, "imagenet")
    check_published("timm/resnet18", "default", 1000, "imagenet")
    for name in ("resnet18", "timm/resnet18"):
        with pytest.raises(ConfigError, match=r"pretrain\.weights=default: knows 1000 classes, and the data has 10"):
            check_published(name, "default", 10, "imagenet")


@each_of(
    ("name", "normalization", "nearest"),
    [
        ("timm/resnetv2_50x1_bit", "imagenet", "half"),
        ("timm/resnet18", "half", "imagenet"),
        ("resnet18", "cifar10", "imagenet"),
        ("timm/vit_base_patch16_clip_224.openai_ft_in1k", "imagenet", "clip"),
    ],
)
def test_published_weights_of_other_pixels_are_refused(name, normalization, nearest):
    with pytest.raises(ConfigError, match=rf"data\.normalization={normalization} does not make; set it to {nearest}"):
        check_published(name, "default", 1000, normalization)
    check_published(name, "default", 1000, nearest)


def test_published_weights_of_odd_pixels_are_refused(monkeypatch):
    import timm

    known = timm.get_pretrained_cfg("resnet18")
    strange = dataclasses.replace(known, mean=(0.1, 0.2, 0.3))
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: strange)
    with pytest.raises(ConfigError, match="no value of it does, so choose another network"):
        check_published("timm/resnet18", "default", 1000, "imagenet")


def test_what_does_not_fit_is_told_with_both_shapes(tmp_path):
    with SeedTree(1).scoped():
        theirs = build_model("resnet18", 7, 224)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=r"it has conv1.*7, 7.*here.*3, 3.*fc.bias of shape.*7.*here.*5.*classes"):
        load_weights(network(2), str(tmp_path / "model.pth"), "resnet18")


@each_of("kind", ["pth", "safetensors"])
@each_of("kept", [0, 10, 500, -2000])
def test_file_that_was_cut_short_is_named(tmp_path, theirs, kind, kept):
    path, state = tmp_path / f"model.{kind}", theirs.state_dict()
    torch.save(state, path) if kind == "pth" else safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"is cut short or damaged .*; fetch it again"):
        load_weights(theirs, str(path), "resnet18")


def test_file_of_other_objects_is_no_damaged_one(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"no weights at all")
    with pytest.raises(ConfigError, match=r'is text .it begins with "no weights at all".'):
        load_weights(network(2), str(tmp_path / "model.pth"), "resnet18")


def confusion(order, right=0.6, classes=10, images=50):
    """Answers of a teacher that is right so often, and whose output `order[c]` stands for class c."""
    rng, counts = np.random.default_rng(0), np.zeros((classes, classes), int)
    for place in range(classes):
        others = rng.multinomial(round(images * (1 - right)), np.full(classes, 1 / classes))
        counts[place] = others
        counts[place, order[place]] += round(images * right)
    return counts


@each_of("order", [range(10), [1, 0, *range(2, 10)], [0, 1, 2, 3, 4, 5, 9, 6, 7, 8]])
def test_classes_in_another_order_are_found(order):
    names = tuple("abcdefghij")
    if list(order) == sorted(order):
        check_order("a.pth", confusion(order), names)
        return
    moved = [place for place in range(10) if order[place] != place]
    told = rf"{len(moved)} of 10 classes .*images of {names[moved[0]]} {names[order[moved[0]]]} and those of"
    with pytest.raises(ConfigError, match=told):
        check_order("a.pth", confusion(order), names)


@each_of("right", [0.15, 0.3, 0.5])
def test_weak_teacher_in_right_order_is_not_refused(right):
    check_order("a.pth", confusion(range(10), right), tuple("abcdefghij"))


@each_of(("classes", "right"), [(10, 0.6), (100, 0.8), (1000, 0.9)])
def test_few_validation_images_prove_no_other_order(classes, right):
    for images in (1, 2, 5):
        rng, counts = np.random.default_rng(images), np.zeros((classes, classes), int)
        for place in np.repeat(np.arange(classes), images):
            counts[place, place if rng.random() < right else rng.integers(classes)] += 1
        check_order("a.pth", counts, tuple(map(str, range(classes))))


def test_swallowed_classes_are_no_other_order():
    counts = confusion(range(100), 0.6, classes=100)
    for weak, strong in ((3, 4), (10, 11)):
        counts[weak] = counts[strong] = 0
        counts[weak, [weak, strong, 50]] = 4, 32, 14
        counts[strong, [strong, weak, 60]] = 25, 5, 20
    check_order("a.pth", counts, tuple(map(str, range(100))))


def test_confused_classes_are_no_other_order():
    counts = confusion(range(10))
    counts[1] = 0
    counts[1, 0] = 50  # all of class 1 is called class 0, which keeps its own
    check_order("a.pth", counts, tuple("abcdefghij"))


@each_of(("shifts", "right", "asked", "kept"), [
    (False, {False: 3, True: 9}, [False, True], True),
    (False, {False: 9, True: 3}, [False, True], False),
    (False, {False: 9, True: 9}, [False, True], False),
    (True, {True: 3}, [True], True),
    (None, {None: 3}, [None], None),
])  # fmt: skip
def test_network_of_a_file_gets_the_better_input(shifts, right, asked, kept):
    model, seen = torch.nn.Identity(), []
    if shifts is not None:
        model.transform_input = shifts

    def measure():
        seen.append(getattr(model, "transform_input", None))
        return np.diag([right[seen[-1]]])

    assert best_input(model, measure).trace() == max(right.values())
    assert (seen, getattr(model, "transform_input", None)) == (asked, kept)


def test_teacher_at_chance_stops_the_run(tmp_path):
    """A file without names whose outputs stand in another order: the dearest of the silent errors of this field."""
    changes = {
        "pretrain.model": "convnet2_w16", "pretrain.epochs": 4, "data.classes": tuple("0123"),
        "runtime.precision": "fp32",
    }  # fmt: skip
    store, runtime = ArtifactStore(str(tmp_path / "store")), Runtime.create(RuntimeConfig(device="cpu"))

    def run(more):
        config = override(recipe("digits"), changes | more)
        index, ref = load_index(config, store, lambda done, total: None)
        planned = plan_from(config, index, ref).tasks["pretrain"][0].units[0]
        unit = Unit(planned.ref.unit, planned.params, lambda name: index)
        return [*PRETRAIN.run(config.pretrain, [unit], SeedTree(0), runtime)][-1].value

    learnt, path = run({}), str(tmp_path / "bare.pth")
    assert learnt.top1 > 0.9
    torch.save(learnt.weights, path)
    assert run({"pretrain.weights": path}).top1 == learnt.top1
    torch.save({key: value.roll(1, 0) if "head" in key else value for key, value in learnt.weights.items()}, path)
    with pytest.raises(ConfigError, match=r"4 of 4 classes stand at another place .* images of 0 1 and those of 1 2"):
        run({"pretrain.weights": path})
    torch.save({key: value * ("head" not in key) for key, value in learnt.weights.items()}, path)
    with pytest.raises(ConfigError, match=r"names \d+\.\d% of the validation images right, and chance 25\.0%"):
        run({"pretrain.weights": path})


@each_of(("classes", "least"), [(2, 5 / 9), (3, 1 / 3 + 2 / 27), (10, 0.2), (1000, 0.002)])
def test_chance_is_exceeded_for_few_classes_too(classes, least):
    """Twice chance would be everything right for a set of two classes."""
    assert hardly(classes) == pytest.approx(least)


def test_trained_teacher_at_chance_is_noted(tmp_path):
    config = override(recipe("digits"), {"pretrain.model": "convnet2_w16", "pretrain.epochs": 1, "pretrain.lr": 1e-9})
    store, told = ArtifactStore(str(tmp_path / "store")), []
    plan = plan_from(config, *load_index(config, store, lambda done, total: None))
    for event in run_stage(plan.tasks["pretrain"][0], store, Runtime.create(RuntimeConfig(device="cpu"))):
        told.append((event.kind, event.text))
    assert told[-2][0] == "note"
    assert re.match(r"teacher names \d+\.\d% of the validation images right, and chance 10\.0%: .*epochs", told[-2][1])
    assert told[-1][0] == "unit"
