"""EXIF orientation: ignored or applied by all readers alike."""

import io
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import TWO_CLASSES, folder, saved, stored_again, structs, table
from PIL import Image, ImageOps
from tables import each_of

from wmdd.config.distill import override
from wmdd.config.recipes import recipe
from wmdd.data.decoding.decoder import decode, read_header
from wmdd.data.decoding.pixels import evaluation_crop
from wmdd.data.images import StreamedImages, load_native_uint8, load_uint8
from wmdd.data.index import hold_out, limit
from wmdd.data.scan import build_index
from wmdd.engine.board import Board
from wmdd.engine.plan import make_plan
from wmdd.engine.run import run_plans
from wmdd.storage.store import ArtifactStore

PHOTO = Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def photo(orientation, kind="JPEG", image=PHOTO, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif, **options)


def photos(root, kind, *images):
    """Write images of class a, next to those of b, which carry no orientation; return the set's URL."""
    plain = [saved(PHOTO, "JPEG", quality=5 + place) for place in range(len(images))]
    if kind == "folder":
        for name, data in (("a", images), ("b", plain)):
            for split in ("train", "val"):
                (root / split / name).mkdir(parents=True)
                for place, one in enumerate(data):
                    (root / split / name / f"{place}.jpg").write_bytes(one)
    else:
        labels = pa.array([0] * len(images) + [1] * len(plain))
        for split in ("train", "val"):
            pq.write_table(table(structs(*images, *plain), labels), root / f"{split}-0.parquet", row_group_size=3)
    return str(root)


@each_of("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@each_of("orientation", range(10))
def test_header_and_turned_image_agree_with_pillow(kind, orientation):
    data = photo(orientation, kind)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    header = read_header(data, "x")
    image = decode(data, "x", header.orientation)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert (header.orientation in range(2, 9)) == (kind != "TIFF" and orientation in range(2, 9))
    # Pillow turns a TIFF itself; other kinds are kept as they are stored.
    assert decode(data, "x").size == ((60, 90) if kind == "TIFF" and orientation in range(5, 9) else (90, 60))


def test_orientation_is_read_from_xmp_too():
    xmp = b"<x:xmpmeta><rdf:RDF><rdf:Description tiff:Orientation='6'/></rdf:RDF></x:xmpmeta>".replace(b"'", b'"')
    assert read_header(saved(PHOTO, "JPEG", xmp=xmp), "x").orientation == 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_header(saved(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*\0\0"), "x").orientation == 1


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_orientation_is_treated_alike_by_all_readers(tmp_path, kind):
    url = photos(tmp_path, kind, photo(6), photo(1), photo(3))
    ignored, applied = build_index(url), build_index(url, upright=True)
    assert ignored.train.uniform_size() == (60, 90)
    assert applied.train.height.tolist() == [90, 60, 60, 60, 60, 60]
    assert applied.train.width.tolist() == [60, 90, 90, 90, 90, 90]
    for split in ("train", "val"):
        part = getattr(applied, split)
        for place in range(len(part)):
            stored = np.asarray(StreamedImages(ignored, split, np.asarray)[place][0])
            turned = np.asarray(StreamedImages(applied, split, np.asarray)[place][0])
            assert turned.shape[:2] == (part.height[place], part.width[place])
            expected = np.rot90(stored, {6: 3, 3: 2, 1: 0}[int(part.orientation[place])])
            np.testing.assert_array_equal(turned, expected)
            seen = load_uint8(applied, split, np.array([place]), size=60, crop_ratio=1.0)
            np.testing.assert_array_equal(
                seen[0].permute(1, 2, 0).numpy(), np.asarray(evaluation_crop(Image.fromarray(expected), 60, 1.0))
            )


def test_upright_images_of_one_size_load_natively(tmp_path):
    lying = Image.fromarray(np.rot90(np.asarray(PHOTO)).copy())
    index = build_index(photos(tmp_path, "folder", photo(6, image=lying), photo(8, image=lying)), upright=True)
    assert index.train.uniform_size() == (60, 90)
    assert load_native_uint8(index, "train", np.arange(4)).shape == (4, 3, 60, 90)


def test_index_and_digests_hold_the_orientation(tmp_path):
    url = photos(tmp_path, "folder", photo(6), photo(1))
    ignored, applied = build_index(url), build_index(url, upright=True)
    again = stored_again(applied)
    assert again.upright
    assert again.train.orientation.tolist() == [6, 1, 1, 1]
    assert again.train.height.tolist() == applied.train.height.tolist()
    for digest in (lambda index: index.digest("train"), lambda index: index.digest("val"), lambda i: i.class_digest(0)):
        assert digest(again) == digest(applied) != digest(ignored)
    assert limit(applied, 1).upright
    assert hold_out(applied, 0.5).train.orientation.shape == (2,)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"))


def test_orientation_is_noted_and_enters_all_keys(store, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    url = folder(tmp_path / "set", *TWO_CLASSES)
    for grey, name in enumerate(("train/a/0.png", "val/b/1.png")):
        Image.new("RGB", (8, 6), (grey,) * 3).save(f"{url}/{name}", exif=exif)
    config = override(
        recipe("cifar10-quick"),
        {
            "data.path": url,
            "ipc": 1,
            "pretrain.model": "convnet2_w16",
            "evaluate.students": ("convnet2_w16",),
        },
    )
    stored, turned = (make_plan(override(config, {"data.exif_orientation": how}), store) for how in ("ignore", "apply"))
    assert stored.index.notes == (
        "2 of 8 images carry an EXIF orientation, which is ignored, as torchvision does; "
        "--data.exif_orientation apply turns them upright",
    )
    assert turned.index.notes == ()
    assert stored.index_ref != turned.index_ref
    for stage in ("pretrain", "statistics", "barycenter", "recover", "relabel", "evaluate"):
        assert not set(stored.refs(stage)) & set(turned.refs(stage))
    again = make_plan(config, store)
    assert (again.tasks, again.index_ref) == (stored.tasks, stored.index_ref)
    assert "exif_orientation" not in config.data.for_key()
    told = []
    run_plans({"": stored}, store, _Idle(), told.append)
    assert [event.text for event in told if event.kind == "note"] == list(stored.index.notes)


class _Idle:
    """Runs nothing."""

    def run(self, tasks, missing, store, listener):
        return Board([], missing)

    def close(self):
        pass
