"""Networks by name, their stems, and which names are refused."""

import pytest
import torch
from tables import each_of
from torch import nn

from wmdd.errors import ConfigError
from wmdd.models.registry import build_model, check_model, has_batch_norm, skeleton
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


@each_of(("name", "size", "tokens"), [("vit_tiny_patch4_32", 32, 65), ("timm/deit_tiny_patch8_64", 64, 65)])
def test_vit_takes_other_patches_by_its_name(name, size, tokens):
    model = skeleton(name, 10, size)
    assert model.pos_embed.shape[1] == tokens
    assert tuple(model(images(2, size, "meta")).shape) == (2, 10)


def test_patches_that_do_not_fill_the_image_are_refused():
    line = r"evaluate\.students=vit_tiny_patch5_32: patches of 5 px do not fill .* of 32 px; choose from 2, 4, 8, 16$"
    with pytest.raises(ConfigError, match=line):
        build_model("vit_tiny_patch5_32", 10, 32, option="evaluate.students")
    with pytest.raises(ConfigError, match=r"images of 31 px; choose another data\.image_size"):
        build_model("vit_tiny_patch5_32", 10, 31, option="evaluate.students")


@each_of("name", ["resnet1x", "vit_nano_patch4_32", "convnetx", "fasterrcnn_resnet50_fpn", ""])
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
