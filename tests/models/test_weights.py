"""Weights that fit are loaded strictly, under the names of other code too; others are refused."""

import argparse
import itertools

import pytest
import safetensors.torch
import torch
from tables import each_of
from users_files import check_refused, network, saved, written

from wmdd.errors import ConfigError
from wmdd.models.names import is_file
from wmdd.models.teacher import Teacher
from wmdd.models.weight_files import card_in
from wmdd.models.weights import check_card, load_weights, translated

NAME = "convnet3_w16"


@pytest.fixture
def source():
    return network(1, NAME, size=16)


@pytest.fixture
def empty():
    return network(2, NAME, size=16)


def equal_states(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def test_safetensors_load(tmp_path, source, empty):
    path = written(tmp_path, safetensors.torch.save(source.state_dict()), "w.safetensors")
    load_weights(empty, path, NAME)
    assert equal_states(source, empty)


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "data parallel"])
def test_checkpoint_of_plain_tensors_loads(tmp_path, source, empty, wrap):
    state = dict(source.state_dict())
    if wrap == "data parallel":
        state = {f"module.{key}": value for key, value in state.items()}
    path = saved(tmp_path, {wrap: state, "epoch": 3} if wrap in ("model", "state_dict") else state)
    load_weights(empty, path, NAME)
    assert equal_states(source, empty)


def without_bias(state):
    del state["head.bias"]


def with_extra(state):
    state["extra.weight"] = torch.zeros(1)


def reshaped(state):
    state["head.bias"] = torch.zeros(1)


@each_of(
    ("change", "message"),
    [
        (without_bias, "lacks head.bias"),
        (with_extra, "adds extra.weight"),
        (reshaped, r"has head.bias of shape \(1,\), here \(5,\)"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path, source, empty, change, message):
    before = {key: value.clone() for key, value in empty.state_dict().items()}
    state = dict(source.state_dict())
    change(state)
    refusal = rf"does not fit convnet3_w16 .*\(1 key: it {message}\)"
    check_refused(saved(tmp_path, state), refusal, empty, NAME)
    assert all(torch.equal(value, before[key]) for key, value in empty.state_dict().items())


class Payload:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def bare_stream(value, path):
    """As torch wrote files before it zipped them."""
    torch.save(value, path, _use_new_zipfile_serialization=False)


def bare_call(value, path):
    """Nothing but the call, in the opcodes that the unpickler of the standard library would follow."""
    with open(path, "w") as file:
        file.write(f"cbuiltins\nopen\n(V{value['head.bias'].path}\nVw\ntR.")


@each_of(
    ("save", "told"),
    [
        (torch.save, "not a file of plain tensors"),
        (bare_stream, "not a file of plain tensors"),
        (bare_call, "is text .it begins with"),
    ],
)
def test_b01_checkpoint_with_code_does_not_run(tmp_path, empty, save, told):
    planted, path = tmp_path / "planted", str(tmp_path / "w.pth")
    save({"head.bias": Payload(str(planted))}, path)
    check_refused(path, told, empty, NAME)
    assert not planted.exists()


@each_of("value", [[1, 2], {"model": 3}, {"epoch": 3}])
def test_checkpoint_without_a_state_dict_is_refused(tmp_path, empty, value):
    check_refused(saved(tmp_path, value), "holds no state dict", empty, NAME)


@each_of("name", ["w.pth", "w.safetensors"])
@each_of("data", [None, b"", b"garbage"])
def test_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, empty, name, data):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    check_refused(path, rf"pretrain\.checkpoint={path}: ", empty, NAME)


def released(key):
    return key.replace("downsample.0.", "downsample.conv.").replace("downsample.1.", "downsample.norm.")


def cifar(key):
    return key.replace("downsample.", "shortcut.").replace("fc.", "linear.")


def test_other_names_of_the_same_layers_load_strictly(tmp_path):
    ours, path, failures = network(2), str(tmp_path / "model_49.pth"), []
    # One number for each layer, which takes no room in a file.
    theirs = {
        key: torch.tensor(number, dtype=value.dtype).expand(value.shape)
        for number, (key, value) in enumerate(ours.state_dict().items())
    }
    prefixes, wrappers = ("", "module.", "module.model.", "_orig_mod."), (None, "model", "state_dict", "net")
    for rename, prefix, wrapper in itertools.product((released, cifar), prefixes, wrappers):
        values = ours.state_dict()
        for value in values.values():
            value.fill_(-1)
        state = {prefix + rename(key): value for key, value in theirs.items()}
        torch.save({wrapper: state, "epoch": 49, "args": argparse.Namespace(lr=0.1)} if wrapper else state, path)
        load_weights(ours, path, "resnet18")
        if not all(torch.equal(value, values[key]) for key, value in theirs.items()):
            failures.append((rename.__name__, prefix, wrapper))
    assert failures == []


def test_b14_missing_layer_is_not_left_random(tmp_path):
    """The released code loads the same file with strict=False."""
    state = {released(key): value for key, value in network(1).state_dict().items() if "downsample.0" not in key}
    path = saved(tmp_path, state)
    check_refused(path, r"3 keys: it lacks layer2\.0\.downsample\.0\.weight", network(2), "resnet18")


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


def card(tmp_path, names):
    weights = network(1, "convnet2_w16", len(names)).state_dict()
    made = Teacher("convnet2_w16", "auto", weights, names, 0.9, 16, 1.0, "half")
    return written(tmp_path, made.to_files()["teacher.safetensors"], "teacher.safetensors")


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
    with pytest.raises(ConfigError, match=f"was trained with {told}; set it"):
        check_card(card(tmp_path, ("cat", "dog")), ("cat", "dog"), size, normalization)


def test_what_does_not_fit_is_told_with_both_shapes(tmp_path):
    path = saved(tmp_path, network(1, classes=7, size=224).state_dict())
    refusal = r"it has conv1.*7, 7.*here.*3, 3.*fc.bias of shape.*7.*here.*5.*classes"
    check_refused(path, refusal, network(2), "resnet18")


@each_of("kind", ["pth", "safetensors"])
@each_of("kept", [0, 10, 500, -2000])
def test_file_that_was_cut_short_is_named(tmp_path, empty, kind, kept):
    path, state = tmp_path / f"model.{kind}", empty.state_dict()
    torch.save(state, path) if kind == "pth" else safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[:kept])
    check_refused(path, r"is cut short or damaged .*; fetch it again", empty, "convnet3_w16")


def test_file_of_other_objects_is_no_damaged_one(tmp_path):
    path = written(tmp_path, b"no weights at all")
    check_refused(path, r'is text .it begins with "no weights at all".', network(2), "resnet18")
