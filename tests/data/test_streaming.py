"""Views of images that are not kept in memory: the pixels, the loading processes, and the kinds of files."""

import dataclasses
import gc
import multiprocessing

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as VF
from builders import CPU
from image_files import images, saved
from PIL import Image
from test_jpeg import COLOUR, TURNED

from wmdd.config.distill import DistillConfig, override
from wmdd.data import streaming
from wmdd.data.batches import TrainingBatches
from wmdd.data.decoding.jpeg import decode_on_gpu
from wmdd.data.geometry import Geometry
from wmdd.data.scan import build_index
from wmdd.data.streaming import StreamedViews, cut
from wmdd.data.views import draw_resized_crops
from wmdd.errors import ChangedError
from wmdd.seeding import SeedTree

SIZE, EPOCHS = 16, 2
PICTURE = Image.fromarray(COLOUR)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
ON_GPU = [saved(PICTURE, "JPEG"), saved(PICTURE.convert("L"), "JPEG"), saved(PICTURE.resize((30, 90)), "JPEG")]
ON_CPU = [
    saved(PICTURE.convert("CMYK"), "JPEG"),
    saved(PICTURE, "JPEG", keep_rgb=True),
    saved(PICTURE, "JPEG", **TURNED),
    saved(PICTURE, "JPEG", xmp=XMP),
    saved(PICTURE),
]
COUNT = len(ON_GPU) + len(ON_CPU)


@pytest.fixture
def root(tmp_path):
    for path, data in zip(images("train", count=COUNT // 2) + images("val"), (ON_GPU + ON_CPU) * 2, strict=False):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


@pytest.fixture
def index(root):
    found = build_index(str(root), upright=True)
    assert not found.fits("train", SIZE, CPU.memory_bytes)
    return found


@pytest.fixture
def stream(index):
    """Make streamed views; at the end their processes have ended."""
    before, made = set(multiprocessing.active_children()), []

    def make(loaders=0, **options):
        made.append(StreamedViews(index, SIZE, dataclasses.replace(CPU, loaders=loaders), **options))
        return made[-1]

    yield make
    children = set(multiprocessing.active_children()) - before
    made.clear()
    gc.collect()
    for child in children:
        child.join(20)
        assert not child.is_alive()


def epoch_of(streamed, index, epoch):
    """An epoch's batches of views and labels."""
    rng = SeedTree(epoch).numpy()
    order = rng.permutation(len(index.train))
    size = (index.train.height[order].astype(np.int64), index.train.width[order].astype(np.int64))
    views = draw_resized_crops(rng, len(order), size, (0.2, 1.0), flip=True)
    return streamed.epoch(order, views, [range(5), range(5, COUNT)])


def seen(streamed, index):
    """The views and labels of some epochs."""
    epochs = [batch for epoch in range(EPOCHS) for batch in epoch_of(streamed, index, epoch)]
    return [torch.cat(tensors) for tensors in zip(*epochs, strict=True)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 64, 48), (5, 7, 40, 30), (3, 2, 16, 16), (60, 40, 4, 8), (9, 9, 1, 1)])
def test_a_view_is_torchvisions_within_one_level(box, flip):
    expected = VF.to_image(VF.resized_crop(PICTURE, *box, [SIZE, SIZE], antialias=True))
    view = cut(torch.from_numpy(COLOUR).permute(2, 0, 1), (0, *box, flip), SIZE)
    assert (view.int() - (expected.flip(2) if flip else expected).int()).abs().max() <= 1


@pytest.mark.parametrize("top", [-4, 0, 20])
@pytest.mark.parametrize("left", [-4, 0, 20])
def test_outside_an_image_a_view_is_black(top, left):
    small = PICTURE.resize((32, 32))
    expected = VF.to_image(VF.crop(small, top, left, SIZE, SIZE))
    view = cut(torch.from_numpy(np.array(small)).permute(2, 0, 1), (0, top, left, SIZE, SIZE, False), SIZE)
    assert torch.equal(view, expected)


@pytest.mark.parametrize("box", [(-20, 0, 10, 16), (0, -9, 16, 8), (70, 0, 8, 8), (-30, -30, 10, 10)])
def test_view_outside_the_image_is_black(box):
    assert not cut(torch.from_numpy(COLOUR).permute(2, 0, 1), (0, *box, 0), SIZE).any()


def test_loading_processes_stay_for_all_epochs_and_change_nothing(index, stream):
    expected, streamed = seen(stream(), index), stream(loaders=2)
    before, children = set(multiprocessing.active_children()), []
    for _ in range(2):
        assert all(map(torch.equal, seen(streamed, index), expected))
        children.append(set(multiprocessing.active_children()) - before)
    assert children[0] == children[1]
    assert len(children[0]) == 2


def test_epoch_that_was_left_leaves_no_batch_to_the_next(index, stream):
    expected, streamed = list(epoch_of(stream(), index, 1)), stream(loaders=1)
    next(epoch_of(streamed, index, 0))
    for found, batch in zip(epoch_of(streamed, index, 1), expected, strict=True):
        assert all(map(torch.equal, found, batch))


def test_loading_processes_take_no_number_of_others(index, stream):
    """Augmentations and dropout draw theirs between batches; also in a training that was resumed."""

    def drawn(streamed, epochs):
        numbers = []
        for epoch in epochs:
            with SeedTree(epoch).scoped():
                list(epoch_of(streamed, index, epoch))
                numbers.append(float(torch.rand(())))
        return numbers

    expected = drawn(stream(), range(3))
    assert drawn(stream(loaders=1), range(3)) == expected
    assert drawn(stream(loaders=1), range(1, 3)) == expected[1:]


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("loaders", [0, 1])
def test_changed_file_is_named_in_one_line(root, index, stream, loaders, on_gpu):
    name = images("train", count=COUNT // 2)[0]
    (root / name).write_bytes(ON_GPU[1])
    with pytest.raises(ChangedError, match=rf"^{name} has changed since the set was indexed; .*$"):
        seen(stream(loaders=loaders, on_gpu=on_gpu), index)


@pytest.mark.parametrize("loaders", [0, 1])
def test_files_that_the_device_decodes_give_the_same_views(index, stream, loaders, monkeypatch):
    decoded = []

    def decode(files, device):
        decoded.extend(files)
        return decode_on_gpu(files, device)

    monkeypatch.setattr(streaming, "decode_on_gpu", decode)
    assert all(map(torch.equal, seen(stream(loaders=loaders, on_gpu=True), index), seen(stream(), index)))
    assert sorted(decoded) == sorted(EPOCHS * ON_GPU)


def test_batch_that_the_device_cannot_decode_is_decoded_by_the_cpu(index, stream, monkeypatch):
    def fail(files, device):
        raise RuntimeError("nvjpegDecode failed: 5")

    monkeypatch.setattr(streaming, "decode_on_gpu", fail)
    assert all(map(torch.equal, seen(stream(on_gpu=True), index), seen(stream(), index)))


def test_full_device_is_no_reason_to_decode_elsewhere(index, stream, monkeypatch):
    def fail(files, device):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(streaming, "decode_on_gpu", fail)
    with pytest.raises(torch.OutOfMemoryError):
        seen(stream(on_gpu=True), index)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_option_says_where_files_are_decoded(index, device, monkeypatch):
    calls = []
    monkeypatch.setattr(
        streaming, "decode_on_gpu", lambda files, device: calls.append(0) or decode_on_gpu(files, device)
    )
    section = override(DistillConfig(), {"pretrain.batch_size": 5, "pretrain.decode": device}).pretrain
    batches = TrainingBatches(index, Geometry(SIZE, 1.0, "half"), section, SeedTree(0), CPU)
    for views, labels in batches.epoch(0):
        assert views.shape == (len(labels), 3, SIZE, SIZE)
    assert len(calls) == 2 * (device == "gpu")
