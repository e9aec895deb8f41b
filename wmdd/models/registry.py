"""Networks by name, for any number of classes and image size, with stems for small images."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wmdd.config.base import SMALL_BELOW_PX, Stem
from wmdd.errors import ConfigError
from wmdd.models.convnet import ConvNet
from wmdd.models.names import convnet_shape, vit_patches
from wmdd.text import one_line, suggestion

SHIFTING = ("googlenet", "inception_v3")  # torchvision's, with auxiliary heads, and a shift of the input if published
COMMON = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "convnet3")


def build_model(
    name: str, num_classes: int, image_size: int, *, stem: Stem = "auto", option: str = "model"
) -> nn.Module:
    """Return an untrained classifier.

    Args:
        name: ``convnetD`` or ``convnetD_wWIDTH`` (D blocks), a torchvision classifier such as ``resnet18``, or a
            timm model such as ``resnet10t`` or ``timm/resnet18`` (the prefix skips torchvision), of whose ViTs the
            name may have other patches: ``vit_tiny_patch4_32`` is ``vit_tiny_patch16_224`` with patches of 4 px.
        image_size: height and width of the inputs, px.
        stem: ``small`` keeps the first layers from shrinking the image, ``stride2`` is the released code's for
            Tiny-ImageNet at 224 px, ``auto`` takes ``small`` below 100 px.
        option: the configuration's name for this choice, for error messages.

    Raises:
        ConfigError: for an unknown name, or a network that cannot take such images.
    """
    try:
        model = _construct(name, num_classes, image_size, option)
    except (ValueError, TypeError, RuntimeError, AssertionError) as exc:
        raise ConfigError(f"{option}={name}: cannot be built for {image_size} px: {one_line(exc, 200)}") from exc
    if stem == "auto":
        stem = "small" if image_size < SMALL_BELOW_PX else "standard"
    if stem != "standard":
        _replace_stem(model, stem)
    return model


def check_model(name: str, num_classes: int, image_size: int, *, stem: Stem, option: str) -> None:
    """Raise ConfigError for a network that fails on its first images."""
    model = skeleton(name, num_classes, image_size, stem=stem, option=option).eval()
    if isinstance(model, ConvNet):  # has refused by now; a run without memory imports torch's compiler, for seconds
        return
    images = torch.empty(2, 3, image_size, image_size, device=next(model.parameters()).device)
    try:
        logits = model(images)
    except (RuntimeError, ValueError, AssertionError, IndexError) as exc:
        raise ConfigError(f"{option}={name}: fails on {image_size} px images: {one_line(exc, 200)}") from exc
    if tuple(logits.shape) != (2, num_classes):
        raise ConfigError(f"{option}={name}: gives {tuple(logits.shape)} for 2 images; choose a plain classifier")


def skeleton(name: str, num_classes: int, image_size: int, *, stem: Stem = "auto", option: str = "model") -> nn.Module:
    """Return a network whose weights take no memory, to inspect its layers."""
    try:
        with torch.device("meta"):
            return build_model(name, num_classes, image_size, stem=stem, option=option)
    except ConfigError:  # a few constructors compute with their weights
        return build_model(name, num_classes, image_size, stem=stem, option=option)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a network has batch-norm layers, which the batch-norm term needs."""
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def normalized_by_batch(model: nn.Module) -> nn.Module:
    """Return a copy whose batch-norm layers take each batch's own statistics; all else is in evaluation mode."""
    model = copy.deepcopy(model)
    for module in model.modules():
        module.train(isinstance(module, nn.BatchNorm2d))
    return model


def draws(model: nn.Module) -> bool:
    """Whether a network draws random numbers in training: dropout, or dropped paths, by the names of their rates."""
    rates = (
        getattr(module, name, 0) for module in model.modules() for name in ("p", "dropout", "drop_prob", "drop_rate")
    )
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, transform_input: bool = False) -> None:
    """Load a whole state dict that was saved by the same version of the network.

    A plain dict carries no versions, which some networks (MNASNet) ask for and refuse to load without.

    Args:
        transform_input: make torchvision's Inception or GoogLeNet shift the channels of its input, as the published
            weights want it.
    """
    whole = OrderedDict(state)
    whole._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(whole, strict=True)
    if transform_input:
        network.transform_input = True  # type: ignore[assignment]


def _construct(name: str, num_classes: int, image_size: int, option: str) -> nn.Module:
    if shape := convnet_shape(name):
        depth, width = shape
        return ConvNet(num_classes, depth=depth, width=width, image_size=image_size)
    import torchvision.models as zoo

    if not name.startswith("timm/") and name in zoo.list_models(module=zoo):
        kwargs: dict[str, Any] = {"image_size": image_size} if name.startswith("vit_") else {}
        if name in SHIFTING:
            kwargs = {"aux_logits": False, "init_weights": True}
        model: nn.Module = zoo.get_model(name, weights=None, num_classes=num_classes, **kwargs)
        return model
    import timm

    timm_name = name.removeprefix("timm/")
    if timm.is_model(timm_name):
        return create_timm(timm_name, image_size, num_classes=num_classes)
    base, patch = vit_patches(timm_name) or ("", 0)
    if not timm.is_model(base):
        raise ConfigError(f"{option}={name}: neither a ConvNet-D nor in torchvision or timm; {_names_for(name)}")
    if image_size % patch:  # timm would leave the border out
        divisors = ", ".join(str(side) for side in range(2, image_size) if image_size % side == 0)
        remedy = f"choose from {divisors}" if divisors else "choose another data.image_size"
        raise ConfigError(f"{option}={name}: patches of {patch} px do not fill images of {image_size} px; {remedy}")
    return create_timm(base, image_size, num_classes=num_classes, patch_size=patch)


def create_timm(name: str, image_size: int | None, **options: Any) -> nn.Module:
    """Return a network of timm; `image_size`, px, is for those that are built for one size, None for their own."""
    import timm

    try:
        model: nn.Module = timm.create_model(name, img_size=image_size, **options)
    except TypeError:  # convolutional networks take no img_size
        model = timm.create_model(name, **options)
    return model


def _names_for(given: str) -> str:
    """Return a hint for an unknown network: near names, or common ones, and how to list all."""
    import timm
    import torchvision.models as zoo

    name = re.split(r"[:/]|models\.", given)[-1]  # a library or hub may be named before it
    known = [*(f"convnet{depth}" for depth in range(2, 6)), *zoo.list_models(module=zoo), *timm.list_models()]
    hint = suggestion(name, known, f"common ones are {', '.join(COMMON)}")
    return f"{hint} (in Python, torchvision.models.list_models() and timm.list_models() list all)"


def _replace_stem(model: nn.Module, stem: Stem) -> None:
    """Swap the first convolution (and pooling) of common families; others keep theirs."""
    layers = dict(model.named_modules())
    path, first = next(((path, layer) for path, layer in layers.items() if isinstance(layer, nn.Conv2d)), ("", None))
    # Larger strides are those of patch embeddings, in transformers and ConvNeXt, which are no stems.
    if type(first) is not nn.Conv2d or first.in_channels != 3 or first.stride[0] != 2:
        return
    stride, padding = (2, 3) if stem == "stride2" else (1, 1)
    bias, device = first.bias is not None, first.weight.device
    model.set_submodule(path, nn.Conv2d(3, first.out_channels, 3, stride, padding, bias=bias, device=device))
    for pool in ("maxpool", "features.pool0"):
        if isinstance(layers.get(pool), (nn.MaxPool2d, nn.Sequential)):
            model.set_submodule(pool, nn.Identity())
