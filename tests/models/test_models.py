"""Networks by name, what a probe sees in them, and weights that fit or are refused."""

import pytest
import safetensors.torch
import torch
from tables import each_of
from torch import nn

from wmdd.errors import ConfigError
from wmdd.models.probes import Probe
from wmdd.models.registry import build_model, check_model, has_batch_norm, skeleton
from wmdd.models.weights import load_weights
from wmdd.seeding import SeedTree


def images(n, size, device="cpu"):
    if device == "meta":
        return torch.empty(n, 3, size, size, device="meta")
    return torch.randn(n, 3, size, size, generator=SeedTree(0).torch())


@each_of(("depth", "width", "size"), [(3, 16, 16), (1, 8, 9), (4, 8, 16), (3, 128, 32)])
def test_convnet_halves_the_image_once_per_block(depth, width, size):
    model = build_model(f"convnet{depth}" + (f"_w{width}" if width != 128 else ""), 7, size).eval()
    logits = model(images(2, size))
    assert tuple(logits.shape) == (2, 7)
    assert model.head.in_features == width * (size >> depth) ** 2
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == depth


def test_convnet_deeper_than_the_image_is_refused():
    with pytest.raises(ConfigError, match=r"pretrain\.model=convnet5: cannot be built for 16 px: 5 halvings"):
        build_model("convnet5", 4, 16, option="pretrain.model")


@each_of("name", ["resnet18", "timm/resnet18", "resnet10t", "densenet121"])
def test_small_stem_keeps_the_size_of_small_images(name):
    model = skeleton(name, 10, 32).eval()
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first(images(1, 32, "meta")).shape[-1] == 32
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    assert tuple(model(images(2, 32, "meta")).shape) == (2, 10)


def test_resnet_pools_only_behind_the_standard_stem():
    small, standard = skeleton("resnet18", 10, 32), skeleton("resnet18", 10, 224)
    assert isinstance(small.maxpool, nn.Identity)
    assert isinstance(standard.maxpool, nn.MaxPool2d)
    assert (standard.conv1.kernel_size, standard.conv1.stride) == ((7, 7), (2, 2))


@each_of(("size", "small"), [(32, True), (99, True), (100, False), (224, False)])
def test_automatic_stem_changes_at_100_px(size, small):
    assert (skeleton("resnet18", 10, size).conv1.kernel_size == (3, 3)) is small


def test_stem_can_be_asked_for_at_any_size():
    assert skeleton("resnet18", 10, 32, stem="standard").conv1.kernel_size == (7, 7)
    assert skeleton("resnet18", 10, 224, stem="small").conv1.stride == (1, 1)


def test_stride2_stem_is_that_of_the_released_code():
    model = skeleton("resnet18", 200, 224, stem="stride2").eval()
    conv = model.conv1
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (2, 2), (3, 3), None)
    assert isinstance(model.maxpool, nn.Identity)
    assert tuple(model(images(2, 224, "meta")).shape) == (2, 200)


@each_of("name", ["convnet3_w16", "vit_b_16", "convnext_tiny"])
def test_stem_of_other_families_stays(name):
    auto, standard = (skeleton(name, 10, 32, stem=stem).state_dict() for stem in ("auto", "standard"))
    assert {key: value.shape for key, value in auto.items()} == {key: value.shape for key, value in standard.items()}


@each_of("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "vgg11_bn", "googlenet", "timm/resnet18", "resnet10t"])
def test_named_network_classifies_small_images(name):
    model = skeleton(name, 6, 64).eval()
    assert tuple(model(images(2, 64, "meta")).shape) == (2, 6)
    assert has_batch_norm(model)


def test_prefix_takes_timm_where_both_have_the_name():
    ours, theirs = skeleton("resnet18", 10, 224), skeleton("timm/resnet18", 10, 224)
    assert type(ours).__module__.startswith("torchvision.")
    assert type(theirs).__module__.startswith("timm.")


@each_of("name", ["resnet1x", "convnetx", "fasterrcnn_resnet50_fpn", ""])
def test_unknown_network_is_refused_with_other_names(name):
    line = rf"evaluate\.students={name}: neither .*; (did you mean|common ones are) \w+.*timm\.list_models\(\) list all"
    with pytest.raises(ConfigError, match=line):
        build_model(name, 10, 32, option="evaluate.students")


@each_of(
    ("name", "told"),
    [
        ("resnt18", "did you mean resnet18"),
        ("ResNet-18", "did you mean resnet18"),
        ("torchvision:resnet18", "did you mean resnet18"),
        ("torchvision.models.ResNet_50", "did you mean resnet50"),
        ("timm/vit_tiny_patch16", "did you mean vit_tiny_patch16_"),
        ("ConvNet-3", "did you mean convnet3"),
        ("torchvision:NOPE", "common ones are resnet18, resnet50"),
    ],
)
def test_unknown_network_gets_near_or_common_names(name, told):
    with pytest.raises(ConfigError, match=f"pretrain.model={name}: neither a ConvNet-D nor .*; {told}"):
        build_model(name, 10, 32, option="pretrain.model")


def test_network_that_cannot_take_images_is_refused():
    with pytest.raises(ConfigError, match=r"pretrain\.model=alexnet: fails on 16 px images"):
        check_model("alexnet", 10, 16, stem="auto", option="pretrain.model")
    check_model("resnet18", 10, 16, stem="auto", option="pretrain.model")


def test_network_without_batch_norm_is_known():
    assert not has_batch_norm(skeleton("vit_b_16", 10, 32))


def head_of(model):
    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]


@each_of("name", ["convnet3_w16", "resnet18", "mobilenet_v2", "timm/resnet10t"])
def test_probe_features_are_the_input_of_the_head(name):
    model = build_model(name, 5, 32).eval()
    with Probe(model, 5) as probe, torch.no_grad():
        logits, features, _ = probe.run(images(3, 32))
    head = head_of(model)
    assert features.shape == (3, head.in_features)
    torch.testing.assert_close(head(features), logits)


def test_probe_pools_features_of_a_convolutional_head():
    model = build_model("squeezenet1_1", 5, 64).eval()
    with Probe(model, 5) as probe, torch.no_grad():
        logits, features, _ = probe.run(images(2, 64))
    assert features.shape == (2, 512)
    assert logits.shape == (2, 5)


@each_of("name", ["convnet3_w16", "resnet18", "timm/resnet10t"])
def test_probe_sees_batch_norm_inputs_in_order(name):
    model = build_model(name, 5, 32).eval()
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with Probe(model, 5) as probe, torch.no_grad():
        _, _, inputs = probe.run(images(2, 32))
        _, _, again = probe.run(images(2, 32))
    assert len(inputs) == len(again) == len(layers)
    assert [item.shape[1] for item in inputs] == [layer.num_features for layer in layers]
    assert all(map(torch.equal, inputs, again))


def test_first_batch_norm_input_is_a_convolution():
    model = build_model("convnet3_w16", 5, 16).eval()
    with Probe(model, 5) as probe, torch.no_grad():
        _, _, inputs = probe.run(images(2, 16))
        torch.testing.assert_close(inputs[0], model.blocks[0](images(2, 16)))


def test_probe_passes_gradients_to_the_images():
    model = build_model("convnet3_w16", 5, 16).eval().requires_grad_(False)
    shown = images(2, 16).requires_grad_(True)
    with Probe(model, 5) as probe:
        _, features, inputs = probe.run(shown)
    (features.sum() + inputs[-1].square().sum()).backward()
    assert shown.grad.abs().sum() > 0


def hooks(model):
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_probe_removes_its_hooks_even_after_an_error():
    model = build_model("convnet3_w16", 5, 16)
    with Probe(model, 5):
        assert hooks(model) == 4
    with pytest.raises(RuntimeError, match="channels"), Probe(model, 5) as probe:
        probe.run(torch.zeros(2, 7, 16, 16))
    assert hooks(model) == 0


def test_probe_leaves_the_logits_alone():
    model = build_model("convnet3_w16", 5, 16).eval()
    with torch.no_grad():
        before = model(images(2, 16))
        with Probe(model, 5) as probe:
            assert torch.equal(probe.run(images(2, 16))[0], before)


def test_probe_refuses_another_number_of_classes():
    with pytest.raises(ConfigError, match="ConvNet has no layer with 6 outputs"):
        Probe(build_model("convnet3_w16", 5, 16), 6)


@pytest.fixture
def source():
    with SeedTree(1).scoped():
        return build_model("convnet3_w16", 5, 16)


@pytest.fixture
def empty():
    with SeedTree(2).scoped():
        return build_model("convnet3_w16", 5, 16)


def equal_states(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def test_safetensors_load(tmp_path, source, empty):
    path = str(tmp_path / "w.safetensors")
    safetensors.torch.save_file(source.state_dict(), path)
    load_weights(empty, path, "convnet3_w16")
    assert equal_states(source, empty)


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "data parallel"])
def test_checkpoint_of_plain_tensors_loads(tmp_path, source, empty, wrap):
    state = dict(source.state_dict())
    if wrap == "data parallel":
        state = {f"module.{key}": value for key, value in state.items()}
    path = str(tmp_path / "w.pth")
    torch.save({wrap: state, "epoch": 3} if wrap in ("model", "state_dict") else state, path)
    load_weights(empty, path, "convnet3_w16")
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
    path = str(tmp_path / "w.pth")
    torch.save(state, path)
    with pytest.raises(ConfigError, match=rf"does not fit convnet3_w16 .*\(1 key: it {message}\)"):
        load_weights(empty, path, "convnet3_w16")
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
    with pytest.raises(ConfigError, match=told):
        load_weights(empty, path, "convnet3_w16")
    assert not planted.exists()


@each_of("value", [[1, 2], {"model": 3}, {"epoch": 3}])
def test_checkpoint_without_a_state_dict_is_refused(tmp_path, empty, value):
    path = str(tmp_path / "w.pth")
    torch.save(value, path)
    with pytest.raises(ConfigError, match="holds no state dict"):
        load_weights(empty, path, "convnet3_w16")


@each_of("name", ["w.pth", "w.safetensors"])
@each_of("data", [None, b"", b"garbage"])
def test_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, empty, name, data):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"pretrain\.weights={path}: "):
        load_weights(empty, str(path), "convnet3_w16")
