"""What people bring as weights: old files that torch itself still loads, and others that get a line of their own."""

import copy
import io
import json
import os
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.models as zoo
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.engine import preflight as checks
from wmdd.engine.plan import make_plan
from wmdd.errors import ConfigError
from wmdd.models import published
from wmdd.models.published import build_published
from wmdd.models.registry import build_model
from wmdd.models.teacher import Teacher
from wmdd.models.weight_files import Loaded
from wmdd.models.weights import load_weights, translated
from wmdd.storage.store import ArtifactStore

SMALL = "convnet2_w16"
FETCH = "torchvision.models._api.load_state_dict_from_url"


def small():
    return build_model(SMALL, 5, 16)


def saved(tmp_path, value, name="w.pth"):
    torch.save(value, tmp_path / name)
    return str(tmp_path / name)


def written(tmp_path, data, name="w.pth"):
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)


@pytest.fixture
def quick(monkeypatch):
    """Networks are built without drawing their weights, which takes seconds for the large ones."""
    for name in [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]:
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


def marked(shapes):
    """Tensors that take no memory, each of its own value."""
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


def scripted():
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises its successor
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), out)
    return out.getvalue()


def zipped(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return out.getvalue()


@pytest.mark.filterwarnings("error")
@each_of("name", ["w.pth", "w.safetensors", "w.bin"])
@each_of(
    ("data", "told"),
    [
        (scripted, "is a TorchScript archive; save its state_dict"),
        (lambda: b"version https://git-lfs/spec/v1\noid sha256:0", r"is a pointer of Git LFS.*run git lfs pull"),
        (lambda: b"\n<!DOCTYPE html><html>", "is a web page, not the file; fetch it by its download link"),
        (lambda: b"/annex/objects/SHA256E-s44--aa.pth\n", "is a pointer of git-annex, not the file; run git annex get"),
        (lambda: b"../.git/annex/objects/x/y/SHA256E-s44--aa.pth", "is a link of git-annex as text.*; run git"),
        (lambda: b"outs:\n- md5: aa\n  path: x.pth\n", "is a pointer of DVC, not the file; run dvc pull"),
        (lambda: b"md5: aa\r\nouts:\r\n- md5: aa\r\n", "is a pointer of DVC, not the file; run dvc pull"),
        (lambda: b"# xet version 0\nfilesize = 4\n", "is a pointer of Xet.*; download it again"),
        (lambda: b"\0GITCRYPT\0rest", "is encrypted by git-crypt.*; run git-crypt unlock"),
        (lambda: bytes(1000), "is no file of weights .its 1000 bytes are all zero.; fetch it again"),
        (lambda: b"<?xml version='1.0'?><Error><Code>AccessDenied", "is XML, as of a failed download; fetch it again"),
        (lambda: b"<Error><Code>AccessDenied", "is XML, as of a failed download; fetch it again"),
        (lambda: b'{"weight_map": {}}', "is a list of the parts of weights.*; give the weights in one file"),
        (lambda: b'{"error": "Repository not found"}', "is an error in JSON, as of a failed download; fetch it again"),
        (lambda: b'{\n "architectures": []}', "is text in JSON.*; give the file of weights"),
        (lambda: b"GGUF\3\0\0\0", r"is a file of GGUF .llama.cpp.; convert it"),
        (lambda: b"\x1c\0\0\0TFL3", "is a file of TensorFlow Lite; convert it"),
        (lambda: b"\x1f\x8b\x08rest", "is a compressed file or an archive; unpack it"),
        (lambda: b"\x89HDF\r\n\x1a\n", "is a file of HDF5"),
        (lambda: zipped("a/model_49.pth"), "is a zip archive; unpack it"),
        (lambda: zipped("params.npy"), r"is an archive of NumPy's arrays"),
        (lambda: zipped("model.weights.h5", "config.json"), "is a file of Keras"),
    ],
)  # fmt: skip
def test_file_of_another_kind_is_named(tmp_path, name, data, told):
    path = written(tmp_path, data(), name)
    with pytest.raises(ConfigError, match=rf"^pretrain\.weights={path}: {told}"):
        load_weights(small(), path, SMALL)


@pytest.mark.filterwarnings("error")
@each_of(
    ("name", "data", "told"),
    [
        ("w.pth", b"\x08\x07\x12\x07pytorch\x1a", "is a file of ONNX; convert it"),
        ("w.onnx", b"\x08\x07:", "is a file of ONNX; convert it"),
        ("saved_model.pb", b"\x08\x01\x12\xf4", "is a file of TensorFlow; convert it"),
        ("model.ckpt-9.data-00000-of-00001", b"\xff\x01", "is a file of TensorFlow; convert it"),
        ("flax_model.msgpack", b"\x84\xa6params", "is a file of Flax; convert it"),
        ("w.pth", b"\x84\xa6params\x83", "is a file of msgpack, as of Flax; convert it"),
        ("w.mlmodel", b"\x08\x01\x12", "is a file of Core ML; convert it"),
        ("w.pdparams", b"\x80\x02cbuiltins\nprint\n.", "is a file of PaddlePaddle; convert it"),
        ("w.pth", b"Entry not found", 'is text .it begins with "Entry not found"., not weights; give the file'),
        ("w.pth", bytes(600) + b"rest", "begins with zeros, as a download that was cut short; fetch it again"),
        ("w.pth", b"\x7fELF\2\1", r"is no file of safetensors or torch.save .it begins with b'\\x7fELF"),
        ("w.pth", b"\x80\x02cbuiltins\nprint\n.", "not a file of plain tensors"),
    ],
)  # fmt: skip
def test_file_that_torch_cannot_read_is_named(tmp_path, name, data, told):
    path = written(tmp_path, data, name)
    with pytest.raises(ConfigError, match=rf"^pretrain\.weights={path}: {told}"):
        load_weights(small(), path, SMALL)


@each_of(
    ("names", "told"),
    [
        (["config.json", "model.safetensors"], "is a folder; give the file in it, {}/model.safetensors"),
        (["pytorch_model.bin", "training_args.bin"], "is a folder; give the file in it, {}/pytorch_model.bin"),
        (["a.pth", "b.pth"], "is a folder; give one of its files, such as {}/a.pth"),
        (
            ["model-00001-of-00002.safetensors", "model.safetensors.index.json"],
            "is a folder with weights in 1 parts .model-00001-of-00002.safetensors.; give the weights in one file",
        ),
        ([".metadata", "__0_0.distcp"], "is a checkpoint of torch.distributed; write it as one file: "),
        (["saved_model.pb"], r"is a folder of TensorFlow .saved_model\.pb.; convert it"),
        (["README.md"], r"is a folder without weights .it holds README\.md.; give a \.safetensors or \.pth file"),
        ([], "is a folder without weights .it is empty.; give a"),
    ],
)
def test_folder_of_weights_is_named(tmp_path, names, told):
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(ConfigError, match=rf"^pretrain\.weights={tmp_path}: {told.format(tmp_path)}"):
        load_weights(small(), str(tmp_path), SMALL)


@each_of(
    ("target", "told"),
    [
        ("../.git/annex/objects/x/SHA256E-s44--aa.pth", "is a link of git-annex whose content is not here; run git"),
        ("../../blobs/abc", "is a link to ../../blobs/abc, which does not exist; restore that"),
        ("w.pth", "is a link to w.pth, which does not exist"),
    ],
)
def test_link_to_weights_that_are_not_there_is_named(tmp_path, target, told):
    (tmp_path / "w.pth").symlink_to(target)
    with pytest.raises(ConfigError, match=told):
        load_weights(small(), str(tmp_path / "w.pth"), SMALL)


def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="is a pipe or a device; give a file"):
        load_weights(small(), str(tmp_path / "w.pth"), SMALL)


def test_one_part_of_weights_is_named(tmp_path):
    path = str(tmp_path / "model-00001-of-00002.safetensors")
    safetensors.torch.save_file(dict(list(small().state_dict().items())[:3]), path)
    with pytest.raises(ConfigError, match="by its name it is part 1 of 2: give the weights in one file"):
        load_weights(small(), path, SMALL)


def test_whole_network_is_refused_with_its_class(tmp_path):
    path = saved(tmp_path, small())
    with pytest.raises(ConfigError, match=r"it holds a wmdd\.models\.convnet\.ConvNet\); save the state dict alone"):
        load_weights(small(), path, SMALL)


def test_what_the_file_holds_counts_and_not_its_name(tmp_path):
    theirs = small()
    (tmp_path / "w.pth").write_bytes(safetensors.torch.save(theirs.state_dict()))
    torch.save(theirs.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        ours = small()
        load_weights(ours, str(tmp_path / name), SMALL)
        assert torch.equal(ours.head.weight, theirs.head.weight)


AVERAGE = "took {}, and not {}, which the file also holds"


@each_of(
    ("wrap", "notes"),
    [
        (lambda state, other: {"params": state, "best": np.float64(0.5)}, None),
        (lambda state, other: {"state_dict": {f"backbone.{key}": value for key, value in state.items()}}, None),
        (lambda state, other: {f"student.encoder.{key}": value for key, value in state.items()}, None),
        (lambda state, other: {"state_dict": state, "state_dict_ema": other}, ("state_dict", "state_dict_ema")),
        (lambda state, other: {"model": state, "model_ema": other, "optimizer": {"state": {}}}, ("model", "model_ema")),
        (lambda state, other: {"ema_model": state, "epoch": 3}, None),
        (lambda state, other: {"run": {"weights": state}}, None),
        (lambda state, other: {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in state.items()}, None),
    ],
)
def test_checkpoints_of_trainers_load_with_notes(tmp_path, wrap, notes):
    theirs, other, ours = small(), small(), small()
    path = saved(tmp_path, wrap(dict(theirs.state_dict()), dict(other.state_dict())))
    found = load_weights(ours, path, SMALL)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items())
    assert [line.partition(": ")[2] for line in found] == ([AVERAGE.format(*notes)] if notes else [])


def test_several_networks_in_a_file_are_refused(tmp_path):
    path = saved(tmp_path, {"generator": dict(small().state_dict()), "critic": dict(small().state_dict())})
    with pytest.raises(ConfigError, match=r"holds several networks \(generator, critic\)"):
        load_weights(small(), path, SMALL)


@each_of(
    ("value", "told"),
    [
        (torch.full((5,), float("nan")), "holds NaN or infinite values .first in head.bias."),
        (torch.full((5,), float("inf")), "holds NaN or infinite values .first in head.bias."),
        (torch.zeros(5, dtype=torch.int8), "holds head.bias as int8; save the weights before they are quantised"),
    ],
)
def test_numbers_that_no_network_has_are_refused(tmp_path, value, told):
    path = saved(tmp_path, small().state_dict() | {"head.bias": value})
    with pytest.raises(ConfigError, match=told):
        load_weights(small(), path, SMALL)


def test_safetensors_of_another_framework_is_named(tmp_path):
    path = str(tmp_path / "w.safetensors")
    safetensors.torch.save_file({"params.conv.kernel": torch.zeros(3)}, path, metadata={"format": "flax"})
    with pytest.raises(ConfigError, match=r"adds params\.conv.kernel.*it is of Flax: convert it to torch"):
        load_weights(small(), path, SMALL)


def test_half_precision_and_old_counts_load(tmp_path):
    theirs = build_model("resnet18", 5, 32)
    state = {
        key: value.half() if value.is_floating_point() else value[None] for key, value in theirs.state_dict().items()
    }
    load_weights(build_model("resnet18", 5, 32), saved(tmp_path, state), "resnet18")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No server answers, and torch's folder is empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    asked = []

    def refuse(*args, **options):
        asked.append(args)
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    return asked


def test_weights_that_cannot_be_fetched_are_refused(no_network, tmp_path):
    with pytest.raises(ConfigError, match=rf"cannot be fetched \(.*unreachable\); put http.*pth into {tmp_path}/hub/"):
        build_published("resnet18", "default")
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_timms_weights_are_asked_for_once(no_network, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    with pytest.raises(ConfigError, match=r"timm cannot load its resnet10t \(Network is unreachable\); fetch it where"):
        build_published("timm/resnet10t", "default")
    assert len(no_network) == 1


def test_damaged_file_in_torchs_folder_is_named(no_network, tmp_path):
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


def folder_set(tmp_path, classes):
    from PIL import Image

    for split in ("train", "val"):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    return str(tmp_path)


@pytest.mark.parametrize(
    "kind", ["does not fit", "damaged", "knows 1000 classes, and the data has 2", "cannot be fetched"]
)
def test_weights_are_refused_before_a_set_is_indexed(tmp_path, monkeypatch, kind, no_network):
    checks._fit_published.cache_clear()
    path = folder_set(tmp_path / "set", "ab")
    if kind == "damaged":
        weights, model, told = written(tmp_path, b"version https://git-lfs"), SMALL, "run git lfs pull"
    elif kind == "does not fit":
        weights, model, told = saved(tmp_path, small().state_dict()), SMALL, "does not fit"
    else:
        weights, model, told = "default", "resnet18", kind
    if kind == "cannot be fetched":
        monkeypatch.setattr("wmdd.data.load_index.all_class_names", lambda url, listing: range(1000))
    monkeypatch.setattr("wmdd.data.load_index.build_index", lambda *args, **options: pytest.fail("the set was indexed"))
    changes = {"pretrain.weights": weights, "pretrain.model": model, "data.path": path, "data.image_size": 16}
    config = override(
        recipe("cifar10-quick"), changes | {"data.normalization": "imagenet", "pretrain.stem": "standard"}
    )
    with pytest.raises(ConfigError, match=told):
        make_plan(config, ArtifactStore(str(tmp_path / "store")))
