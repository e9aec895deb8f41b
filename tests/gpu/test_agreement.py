"""Each stage gives on a device what it gives on the CPU, within rounding; compiled or not; in bf16 nearly."""

import numpy as np
import pytest
import torch
from gpu_stages import DEVICE, NETWORKS, SLOWLY, evaluate, open_runtime, pretrain, recovered, relabel, statistics, value
from image_files import saved
from PIL import Image

from wmdd.data.decoding.jpeg import decode_on_gpu, jpeg_pixels
from wmdd.data.streaming import cut

pytestmark = pytest.mark.gpu
CLOSE = {"rtol": 2e-3, "atol": 2e-3}


def close(found, expected, **tolerance):
    np.testing.assert_allclose(found, expected, **(CLOSE | tolerance))


@pytest.mark.parametrize("name", SLOWLY)
def test_teacher_is_that_of_the_cpu(name, tmp_path):
    # Three steps: after nine, two ways of rounding on one CPU are 0.3 apart in a ResNet on batches of four images.
    changes = {"pretrain.epochs": 1}
    found, expected = (
        value(pretrain(tmp_path, open_runtime(device), name, changes=changes)) for device in (None, "cpu")
    )
    for layer, weights in expected.weights.items():
        close(found.weights[layer], weights, err_msg=layer, rtol=2e-2, atol=2e-2)
    close([point["loss"] for point in found.curve], [point["loss"] for point in expected.curve], rtol=1e-2)


@pytest.mark.parametrize("name", NETWORKS)
def test_statistics_are_those_of_the_cpu(name, tmp_path):
    found, expected = (value(statistics(tmp_path, open_runtime(device), name)) for device in (None, "cpu"))
    close(found.features, expected.features)
    for own, other in zip(found.moments, expected.moments, strict=True):
        assert own.count == other.count
        close(own.mean, other.mean)
        close(own.var, other.var)


@pytest.mark.parametrize(("name", "feature_loss"), [*((name, "rms") for name in NETWORKS), ("convnet", "transport")])
def test_recovered_images_are_those_of_the_cpu(name, feature_loss):
    found, expected = (recovered(name, open_runtime(device), feature_loss=feature_loss) for device in (None, "cpu"))
    close(found.losses[:, 0], expected.losses[:, 0])
    assert nearly_equal(found.images, expected.images)


def nearly_equal(images, others):
    """All but one pixel in a hundred differ by one level at most: Adam's first steps turn on a gradient's sign."""
    return float(((images.int() - others.int()).abs() > 1).float().mean()) < 0.01


def test_images_in_bf16_are_near_those_in_fp32():
    found, expected = recovered("resnet", open_runtime(precision="bf16")), recovered("resnet", open_runtime("cpu"))
    close(found.losses[:, 0], expected.losses[:, 0], rtol=0.1, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_recovery_agrees_with_the_plain_one(precision):
    compiled = recovered("convnet", open_runtime(precision=precision, compile="on"))
    plain = recovered("convnet", open_runtime(precision=precision))
    close(compiled.losses[:, 0], plain.losses[:, 0], rtol=3e-2 if precision == "bf16" else 1e-4)
    if precision == "fp32":
        assert nearly_equal(compiled.images, plain.images)


@pytest.mark.parametrize("name", NETWORKS)
def test_labels_are_those_of_the_cpu(name):
    found, expected = (value(relabel(open_runtime(device), name)) for device in (None, "cpu"))
    places = range(3)
    for own, other in zip(found.read(places), expected.read(places), strict=True):
        assert torch.equal(own.images, other.images)
        assert torch.equal(own.views.box, other.views.box)
        close(own.logits, other.logits)


def test_student_is_that_of_the_cpu(tmp_path):
    found, expected = (value(evaluate(tmp_path, open_runtime(device))) for device in (None, "cpu"))
    close([point["loss"] for point in found.curve], [point["loss"] for point in expected.curve], rtol=2e-2)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_files_decoded_on_the_device_look_as_on_the_cpu(mode):
    if jpeg_pixels(saved(Image.new("RGB", (8, 8)), "JPEG")) is None:
        pytest.skip("TorchCodec, of the extra wmdd[jpeg], cannot be imported")
    ramp = np.linspace(0, 255, 60)
    channels = [np.add.outer(ramp, ramp) / 2, np.add.outer(ramp[::-1], ramp) / 2, np.add.outer(0 * ramp, ramp)]
    picture = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).convert(mode)
    files = [saved(picture, "JPEG", quality=quality) for quality in (75, 95)]
    first, again = (decode_on_gpu(files, torch.device(DEVICE)) for _ in range(2))
    for pixels, repeated, data in zip(first, again, files, strict=True):
        assert pixels.device.type == DEVICE
        assert torch.equal(pixels, repeated)
        assert pixels.shape == (3, 60, 60)
        assert (pixels.cpu().float() - jpeg_pixels(data).float()).abs().mean() < 2


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("box", [(0, 0, 60, 50), (5, 7, 40, 30), (-4, -4, 20, 70), (3, 2, 16, 16)])
def test_view_is_cut_as_on_the_cpu(box, flip):
    pixels = torch.arange(3 * 60 * 50).reshape(3, 60, 50).mul(7).remainder(256).to(torch.uint8)
    view = cut(pixels.to(DEVICE), (0, *box, flip), 16)
    assert view.device.type == DEVICE
    assert (view.cpu().int() - cut(pixels, (0, *box, flip), 16).int()).abs().max() <= 1
