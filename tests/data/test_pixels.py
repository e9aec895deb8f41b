"""Pixels as networks see them in evaluation."""

import io

import numpy as np
import torchvision.transforms.v2.functional as F
from builders import encoded, write_folder
from PIL import Image
from tables import each_of

from wmdd.data.decoding import pixels
from wmdd.data.decoding.decoder import decode
from wmdd.data.decoding.pixels import evaluation_crop
from wmdd.data.images import load_uint8
from wmdd.data.scan import build_index


@each_of(("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("LA", "PNG")])
def test_every_mode_decodes_to_rgb(mode, kind):
    image = decode(encoded(1, mode=mode, kind=kind), "x")
    assert (image.mode, image.size) == ("RGB", (8, 8))


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 65535], [32896, 257]], dtype=np.uint16)).save(out, "PNG")
    np.testing.assert_array_equal(np.asarray(decode(out.getvalue(), "x"))[:, :, 0], [[0, 255], [128, 1]])


def test_evaluation_view_crops_the_resized_centre(tmp_path):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, 10:30] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    url = write_folder(tmp_path, {f"{s}/{c}/0.png": out.getvalue() for s in ("train", "val") for c in "ab"})
    images = load_uint8(build_index(url), "train", np.array([0]), size=10, crop_ratio=1.0)
    assert images.shape == (1, 3, 10, 10)
    # Antialiasing blends the outermost pixel with the black outside of the crop.
    assert images.min() > 200
    assert images[:, :, :, 1:-1].min() == 255


@each_of(("size", "crop"), [((20, 40), 10), ((33, 21), 16), ((9, 9), 24), ((50, 47), 32)])
def test_evaluation_crop_agrees_with_torchvision(size, crop):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    expected = F.center_crop(F.resize(image, [round(crop / 0.875)], antialias=True), [crop, crop])
    np.testing.assert_array_equal(np.asarray(evaluation_crop(image, crop, 0.875)), np.asarray(expected))


def test_centre_of_a_very_long_image_is_the_same(monkeypatch):
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 400, 3), dtype=np.uint8))
    for image, ratio in ((strip, 0.875), (strip.transpose(Image.Transpose.ROTATE_90), 1.0)):
        whole = np.asarray(pixels.evaluation_crop(image, 32, ratio), int)
        with monkeypatch.context() as patched:
            patched.setattr(pixels, "_LARGEST_PX", 1000)
            cut = np.asarray(pixels.evaluation_crop(image, 32, ratio), int)
        assert cut.shape == whole.shape == (32, 32, 3)
        assert np.abs(cut - whole).max() <= 1
