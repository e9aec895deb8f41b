"""Published weights of torchvision and timm: checked before they are fetched, loaded as their library does."""

import copy
import dataclasses
import json
import os

import pytest
import torch
import torchvision.models as zoo
from tables import each_of
from users_files import check_refused, cut_network, network, written

from wmdd.errors import ConfigError
from wmdd.models import published
from wmdd.models.published import build_published, check_published
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.models.weight_files import Loaded
from wmdd.models.weights import load_weights, translated


def test_unknown_published_weights_are_refused():
    refusal = "no published weights of resnet18; choose from default, IMAGENET1K_V1"
    check_refused("IMAGENET1K_V9", refusal, network(0), "resnet18")
    with pytest.raises(ConfigError, match=r"ResNet50_Weights\.DEFAULT: no published weights of resnet18"):
        check_published("resnet18", "ResNet50_Weights.DEFAULT", 1000, "imagenet")
    with pytest.raises(ConfigError, match="no such file; resnet10t has its weights by default"):
        check_published("resnet10t", "IMAGENET1K_V1", 1000, "imagenet")
    for source in ("default", "IMAGENET1K_V1"):
        with pytest.raises(ConfigError, match="convnet3 has no published weights; leave it out to train one"):
            check_published("convnet3", source, 10, "imagenet")


def test_published_weights_are_found_by_their_name(monkeypatch):
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


def test_published_weights_of_few_classes_are_refused():
    check_published("resnet18", "default", 1000, "imagenet")
    check_published("timm/resnet18", "default", 1000, "imagenet")
    for name in ("resnet18", "timm/resnet18"):
        with pytest.raises(ConfigError, match=r"pretrain\.checkpoint=default: knows 1000 classes, and the data has 10"):
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


FETCH = "torchvision.models._api.load_state_dict_from_url"


@pytest.fixture
def quick(monkeypatch):
    """Networks are built without drawing their weights, which takes seconds for the large ones."""
    for name in [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]:
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


def marked(shapes):
    """Tensors that take no memory, each of another value."""
    return {
        key: torch.full((), float(place) if value.is_floating_point() else 0, dtype=value.dtype).expand(value.shape)
        for place, (key, value) in enumerate(shapes.items())
    }


def first(value):
    return value[(0,) * value.ndim].item()


def old(key):
    """DenseNet's names before PyTorch 0.4.1, and those of the vision transformer's first files."""
    for now, before in (("norm1.", "norm.1."), ("norm2.", "norm.2."), ("conv1.", "conv.1."), ("conv2.", "conv.2.")):
        key = key.replace(now, before) if "denselayer" in key else key
    return key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")


def stand_in(name, weights):
    """A state dict with the keys of a published file, as far back as torchvision still reads them."""
    plain = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    theirs = zoo.get_model(name, weights=None, **plain).state_dict()
    if name.startswith("mnasnet"):  # asks for the version that its file was saved with, which is a later one
        state = marked(theirs)
        found = type(theirs)(state)
        found._metadata = theirs._metadata
        return found, state
    state = marked({key: value for key, value in theirs.items() if not key.endswith("num_batches_tracked")})
    return type(theirs)((old(key), value) for key, value in state.items()), state


def check_all_taken(network, state):
    for key, value in network.state_dict().items():
        assert first(value) == (first(state[key]) if key in state else 0), key


def loads(monkeypatch, name, weights):
    """Load a stand-in by its published name, and as a user's file."""
    file, state = stand_in(name, weights)
    monkeypatch.setattr(FETCH, lambda *args, **options: copy.copy(file))
    ours = build_model(name, 1000, 224)
    load_weights(ours, weights.name, name)
    check_all_taken(ours, state)
    shifted = name in ("googlenet", "inception_v3")
    assert getattr(ours, "transform_input", False) is shifted
    ours = build_model(name, 1000, 224)
    monkeypatch.setattr("wmdd.models.weights.read_weights", lambda source: Loaded(dict(file)))
    monkeypatch.setattr("wmdd.models.weights.is_published_file", lambda name, source: False)
    load_weights(ours, "a.pth", name)
    check_all_taken(ours, state)
    assert not getattr(ours, "transform_input", False)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "inception_v3", "googlenet", "mnasnet0_5"])
def test_old_published_files_load_by_name_and_as_files(monkeypatch, name):
    loads(monkeypatch, name, next(iter(zoo.get_model_weights(name))))


def with_batch_norm():
    names = [name for name in zoo.list_models(module=zoo) if list(zoo.get_model_weights(name))]
    without = ("alexnet", "convnext", "squeezenet", "swin", "vit")
    return [name for name in names if not name.startswith(without) and (name[:3] != "vgg" or name.endswith("_bn"))]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", with_batch_norm())
def test_published_weights_of_every_classifier_load(monkeypatch, name):
    loads(monkeypatch, name, next(iter(zoo.get_model_weights(name))))


def test_first_names_of_vision_transformers_are_known():
    now = "encoder.layers.encoder_layer_0.mlp.3.weight"
    assert set(translated({old(now): torch.zeros(1)}, {now})) == {now} != {old(now)}


@pytest.mark.usefixtures("quick")
def test_teacher_is_stored_with_its_shift_of_the_input(monkeypatch):
    file, _ = stand_in("googlenet", zoo.GoogLeNet_Weights.DEFAULT)
    monkeypatch.setattr(FETCH, lambda *args, **options: copy.copy(file))
    ours = build_model("googlenet", 1000, 224)
    load_weights(ours, "default", "googlenet")
    names = tuple(map(str, range(1000)))
    weights = dict(ours.state_dict())
    made = Teacher("googlenet", "auto", weights, names, 0.5, 224, 0.875, "imagenet", transform_input=True)

    class Files(dict):
        read = dict.__getitem__

    again = Teacher.from_files(Files(made.to_files()))
    assert again.network.transform_input
    card = json.loads(safetensors_header(made.to_files()["teacher.safetensors"])["wmdd"])
    assert card["transform_input"] is True


def safetensors_header(data):
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@pytest.mark.usefixtures("quick")
def test_mnasnet_of_another_version_is_a_teacher():
    built = build_model("mnasnet0_5", 3, 32)
    made = Teacher("mnasnet0_5", "auto", dict(built.state_dict()), tuple("abc"), 0.5, 32, 1.0, "half")
    assert made.network.training is False


def test_weights_that_cannot_be_fetched_are_refused(monkeypatch, tmp_path):
    cut_network(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=rf"cannot be fetched \(.*unreachable\); put http.*pth into {tmp_path}/hub/"):
        build_published("resnet18", "default")
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_timms_weights_are_asked_for_once(monkeypatch, tmp_path):
    requests = cut_network(monkeypatch, tmp_path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # read when another test imported it
    with pytest.raises(ConfigError, match=r"timm cannot load its resnet10t \(Network is unreachable\); fetch it where"):
        build_published("timm/resnet10t", "default")
    assert len(requests) == 1


def test_damaged_file_in_torchs_folder_is_named(monkeypatch, tmp_path):
    cut_network(monkeypatch, tmp_path)
    file = tmp_path / "hub/checkpoints" / os.path.basename(zoo.ResNet18_Weights.DEFAULT.url)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ConfigError, match=rf"{file} does not load .*; remove it, and it is fetched again"):
        build_published("resnet18", "default")


def test_published_file_by_path_shifts_the_input_too(monkeypatch, tmp_path):
    monkeypatch.setattr("wmdd.models.published.hashlib.sha256", lambda data: Digest())
    assert published.is_published_file("inception_v3", written(tmp_path, b"x"))
    assert not published.is_published_file("googlenet", written(tmp_path, b"x"))
    assert not published.is_published_file("resnet18", written(tmp_path, b"x"))


class Digest:
    def hexdigest(self):
        return "0cc3c7bd" + 56 * "0"
