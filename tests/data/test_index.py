"""The index as a value: round trip, digests, parts of it, and bits."""

from dataclasses import replace

import numpy as np
import pytest
from builders import encoded, image_set, small_set
from image_files import TWO_CLASSES, deep_png, folder, refusal, saved, stored_again
from PIL import Image
from ramps import COLOURS, RAMP, first_row, grey
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.images import StreamedImages, load_uint8
from wmdd.data.index import COLUMNS, DatasetIndex, Split, limit
from wmdd.data.load_index import load_index
from wmdd.data.scan import build_index
from wmdd.data.set_notes import pixel_notes
from wmdd.engine.plan import make_plan
from wmdd.errors import ConfigError, DataError
from wmdd.storage.store import ArtifactStore


def test_index_survives_the_round_trip(tmp_path):
    index = build_index(small_set(tmp_path))
    again = stored_again(index)
    assert (again.url, again.kind, again.class_names, again.val_held_out) == (
        index.url,
        "folder",
        ("ant", "bee"),
        False,
    )
    for split in ("train", "val"):
        assert again.digest(split) == index.digest(split)
        for name in ("file", "row", "label", "height", "width", "digest", "orientation"):
            np.testing.assert_array_equal(getattr(getattr(again, split), name), getattr(getattr(index, split), name))
            assert getattr(getattr(again, split), name).dtype == getattr(getattr(index, split), name).dtype


def test_images_of_each_class_are_found_in_any_order():
    label = np.array([2, 0, 2, 4, 0, 2], np.int32)
    empty = {name: np.zeros(6, dtype) for name, dtype in COLUMNS.items()}
    split = Split(("none",), **(empty | {"label": label}))
    for class_id in (-1, 0, 1, 2, 3, 4, 5):
        np.testing.assert_array_equal(split.of_class(class_id), np.flatnonzero(label == class_id))
    assert split.take(np.array([1, 3])).of_class(4).tolist() == [1]  # it knows nothing of the whole


def sized(count, height, width):
    columns = {name: np.zeros(count, dtype) for name, dtype in COLUMNS.items()}
    return Split(("none",), **(columns | {"height": columns["height"] + height, "width": columns["width"] + width}))


def test_images_are_kept_decoded_within_the_memory():
    index = DatasetIndex("none", "folder", ("a",), sized(10, 8, 6), sized(4, 90, 90), val_held_out=False)
    train, val = 10 * 3 * 8 * 6, 4 * 3 * 8 * 8  # native to train on, in the size of networks to validate on
    assert [index.fits("train", 8, train), index.fits("train", 8, train - 1)] == [True, False]
    assert [index.fits("val", 8, val), index.fits("val", 8, val - 1)] == [True, False]
    assert not index.fits("train", 7, train), "larger images are cropped from originals"
    split = sized(10, 8, 6)
    split.height[0] = 7
    assert not replace(index, train=split).fits("train", 8, train)


def test_class_digest_depends_on_its_own_class_only(tmp_path):
    before = build_index(small_set(tmp_path))
    (tmp_path / "train/bee/0.png").write_bytes(encoded(999))
    after = build_index(str(tmp_path))
    assert before.class_digest(0) == after.class_digest(0)
    assert before.class_digest(1) != after.class_digest(1)


def test_held_out_part_of_a_limited_set_is_within_it(tmp_path):
    url = folder(
        tmp_path / "set", *(f"train/{c}/{i}.png" for c in "ab" for i in range(30)), "val/a/0.png", "val/b/0.png"
    )
    store = ArtifactStore(str(tmp_path / "store"))

    def digests(**more):
        config = override(recipe("digits"), {"data.path": url, "data.per_class": 20, **more})
        index, _ = load_index(config, store, lambda done, total: None)
        return set(index.train.digest.tolist()), set(index.val.digest.tolist())

    (whole, _), (train, held) = digests(), digests(**{"data.holdout": 0.2})
    assert train | held == whole
    assert (len(train), len(held)) == (32, 8)


def test_limited_set_keeps_the_first_by_digest(tmp_path):
    url = folder(
        tmp_path / "set", *(f"{split}/{c}/{i}.png" for split in ("train", "val") for c in "ab" for i in range(5))
    )
    whole = build_index(url)
    few = limit(whole, 2)
    for split in ("train", "val"):
        kept, all_of = getattr(few, split), getattr(whole, split)
        assert kept.row.tolist() == sorted(kept.row.tolist())
        for class_id in (0, 1):
            digests = sorted(all_of.digest[all_of.of_class(class_id)].tolist())
            assert sorted(kept.digest[kept.of_class(class_id)].tolist()) == digests[:2]
    assert limit(whole, 99).digest("train") == whole.digest("train")
    assert few.digest("val") != whole.digest("val")


def noise(top, dtype, offset=0):
    return saved(Image.fromarray((RAMP * top + offset).astype(dtype)), "TIFF")


def test_bits_decide_white_for_all_readers(tmp_path):
    url = image_set(tmp_path, noise(4095, np.uint16), noise(4095, np.int32))
    index = stored_again(build_index(url, bits=12))
    assert (index.bits, pixel_notes(index)) == (12, ())
    (note,) = pixel_notes(build_index(folder(tmp_path / "8", "a/0.png", "a/1.png", "b/0.png", "b/1.png"), bits=12))
    assert note == "data.bits=12 changes no image, as none is grey with more than 8 bits; leave it out"
    expected = np.rint(np.floor(RAMP[0] * 4095) / 4095 * 255)
    for place in range(4):
        image, _ = StreamedImages(index, "train", np.asarray)[place]
        np.testing.assert_array_equal(image[0, :, 0], expected)
    assert load_uint8(index, "val", np.arange(4), size=16, crop_ratio=1.0).max() > 200
    plain = build_index(url)
    assert index.digest("train") != plain.digest("train")
    assert index.class_digest(0) != plain.class_digest(0)


def test_bits_leave_8_bits_and_floats_as_they_are(tmp_path):
    for data in (saved(Image.fromarray(grey(200, np.uint8)[..., 0])), noise(1, np.float32)):
        np.testing.assert_array_equal(first_row(data, bits=12), first_row(data))


@each_of(
    ("data", "message"),
    [
        (
            noise(5000, np.uint16),
            "holds values from 0 up to 5000, which are not of 12 bits; leave out data.bits=12, or",
        ),
        (noise(5, np.int32, -3), "holds values from -3 up to 2, which are not of 12 bits; leave out"),
        (deep_png(COLOURS * 4095), "has several channels of 16 bits, of which Pillow keeps 8; leave out data.bits=12"),
    ],
    ids=["above", "negative", "colours"],
)
def test_values_of_more_bits_are_refused(tmp_path, data, message):
    url = folder(tmp_path, *TWO_CLASSES)
    (tmp_path / "train/b/1.png").write_bytes(data)
    assert f"data.path={url}: train/b/1.png {message}" in refusal(lambda: build_index(url, bits=12))


def test_bits_decide_the_scale_where_values_do_not(tmp_path):
    url = image_set(tmp_path, noise(100, np.int32), noise(4000, np.int32))
    with pytest.raises(DataError, match=r"cannot be told; convert them to 8 or 16 bits, or set data\.bits"):
        build_index(url)
    assert build_index(url, bits=12).bits == 12


def test_bits_enter_all_keys_and_their_default_none(tmp_path):
    store = ArtifactStore(str(tmp_path / "store"))
    network = {"pretrain.model": "convnet2_w16", "evaluate.students": ("convnet2_w16",), "ipc": 1}
    url = image_set(tmp_path / "set", *(noise(top, np.uint16) for top in (4095, 4000, 3900, 3800)))
    config = override(recipe("cifar10-quick"), {"data.path": url, **network})
    assert "bits" not in config.data.for_key()
    plain, set_ = make_plan(config, store), make_plan(override(config, {"data.bits": 12}), store)
    assert any("--data.bits 12" in note for note in plain.index.notes)
    assert not any("--data.bits" in note for note in set_.index.notes)
    assert plain.index_ref != set_.index_ref
    for stage in ("pretrain", "statistics", "barycenter", "recover", "relabel", "evaluate"):
        assert not set(plain.refs(stage)) & set(set_.refs(stage))
    index, _ = load_index(override(config, {"data.bits": 12, "data.per_class": 1}), store, lambda done, total: None)
    assert index.bits == 12
    with pytest.raises(ConfigError, match=r"data\.bits=40"):
        override(config, {"data.bits": 40})
